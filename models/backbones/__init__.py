"""Classification networks, which are also the backbones of segmentation and detection."""
