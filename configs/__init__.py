"""Recipes and cluster files: schema, reading, and error messages. No torch here."""
