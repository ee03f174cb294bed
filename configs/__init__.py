"""Recipes and cluster files: their schema, how they are read, and what may be wrong with them. No torch here."""
