"""What several networks for segmentation are made of."""
