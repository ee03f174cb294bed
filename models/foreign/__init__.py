"""Weights that others wrote, read without unpickling: a file a format, each giving a `Source`."""
