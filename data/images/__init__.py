"""Image files: formats, bounds, decoding, the cache."""
