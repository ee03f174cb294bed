"""Loader processes, and the order in which samples are loaded."""
