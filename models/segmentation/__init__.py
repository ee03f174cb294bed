"""Networks for segmentation: from an image [B, channels, H, W] to logits [B, classes, H, W] at its own size."""
