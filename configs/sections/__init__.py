"""The sections of a recipe and of a cluster file, one per file."""
