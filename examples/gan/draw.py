"""A sheet of 64 made images: `python examples/gan/draw.py runs/gan made.png`."""

import sys

import torch
from torchvision.utils import save_image

import phalanx


def draw(run, file):
    gan = phalanx.load(run)
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    save_image(gan.generator(noise), file, value_range=(-1, 1), normalize=True)


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2])
