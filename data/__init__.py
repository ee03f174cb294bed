"""Datasets and their formats, augmentation, and the loader that brings each rank its micro-batches."""
