"""From an image as it is stored to what the network sees. Every random draw comes from torch's global generator,
which the loader seeds with the sample's own numbers; so any of torchvision's transforms may be used here.
"""

from torch import nn
from torchvision.transforms import v2

from phalanx.configs.schema import DataConfig
from phalanx.data.dataset import Dataset, Split


def pipeline(config: DataConfig, dataset: Dataset, split: Split) -> nn.Module:
    """Resizes, augments (while training) and normalises.

    Shape: [channels, H, W] between 0 and 1, to [channels, image_size, image_size] with about zero mean and unit variance.
    """
    steps: list[nn.Module] = [v2.Resize([config.image_size, config.image_size], antialias=True)]
    if split == "train" and config.augment.shift:
        steps.append(v2.RandomCrop(config.image_size, padding=config.augment.shift))
    if split == "train" and config.augment.flip:
        steps.append(v2.RandomHorizontalFlip(config.augment.flip))
    steps.append(v2.Normalize(list(dataset.mean), list(dataset.std)))
    return v2.Compose(steps)
