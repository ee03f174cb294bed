"""Metrics from sums and rows over a whole split: the same to the last bit however many ranks measured them."""
