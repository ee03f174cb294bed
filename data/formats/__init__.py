"""The dataset formats, one per file, and what they share."""
