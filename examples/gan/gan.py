"""A DCGAN (Radford et al., ICLR 2016, arXiv:1511.06434) on images of 32 x 32 pixels: two networks, two optimizers."""

import torch
from torch import nn
from torch.nn.functional import softplus

from phalanx.dist.step.phases import Phase

NOISE = 64


class Gan(nn.Module):
    """Both networks. Images are between -1 and 1 (`data.mean` and `data.std` 0.5)."""

    def __init__(self, width=32, in_channels=1):
        super().__init__()
        w = width

        def up(inner, outer):  # [B, inner, S, S] to [B, outer, 2 S, 2 S]
            layers = nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)
            return nn.Sequential(*layers)

        def down(inner, outer):  # and back
            layers = nn.Conv2d(inner, outer, 4, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.LeakyReLU(0.2, inplace=True)
            return nn.Sequential(*layers)

        self.generator = nn.Sequential(
            nn.Linear(NOISE, 4 * w * 16, bias=False), nn.Unflatten(1, (4 * w, 4, 4)), nn.BatchNorm2d(4 * w), nn.ReLU(),
            up(4 * w, 2 * w), up(2 * w, w), nn.ConvTranspose2d(w, in_channels, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Conv2d(in_channels, w, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True), down(w, 2 * w), down(2 * w, 4 * w),
            nn.Flatten(), nn.Linear(4 * w * 16, 1),
        )  # fmt: skip
        for module in self.modules():  # as in section 3 of the paper
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, images):
        """How real images look, [B, 1]: positive for real ones."""
        return self.discriminator(images)


class Adversarial:
    """First the discriminator learns to tell images from made ones, then the generator to make what it takes for images."""

    def __init__(self, config, data):
        pass

    def phases(self):
        return [
            Phase("discriminator", self.discriminator_losses, trains=["discriminator.*"]),
            Phase("generator", self.generator_losses, trains=["generator.*"]),
        ]

    def weights(self, batch):
        images = float(len(batch["image"]))
        return {"real": images, "made": images, "generator": images}

    def discriminator_losses(self, gan, batch):
        images = batch["image"]
        with torch.no_grad():
            made = gan.generator(noise_for(images))
        real, taken = gan.discriminator(images), gan.discriminator(made)
        return {"real": (softplus(-real).sum(), len(images)), "made": (softplus(taken).sum(), len(images))}

    def generator_losses(self, gan, batch):
        images = batch["image"]
        taken = gan.discriminator(gan.generator(noise_for(images)))
        return {"generator": (softplus(-taken).sum(), len(images))}

    def measure(self, gan, batch):
        images = batch["image"]
        generator = torch.Generator().manual_seed(int(batch["id"][0]))
        noise = torch.randn(len(images), NOISE, generator=generator).to(images)
        real, taken = gan.discriminator(images) > 0, gan.discriminator(gan.generator(noise)) > 0
        return {"real": real.sum(), "taken": taken.sum(), "images": torch.tensor(len(images))}

    def metrics(self, sums):
        """Shares of images, and of made ones, that the discriminator takes for images."""
        return {"real": sums["real"] / sums["images"], "made": sums["taken"] / sums["images"]}


def noise_for(images):
    return torch.randn(len(images), NOISE, device=images.device, dtype=images.dtype)
