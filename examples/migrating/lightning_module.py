"""A LightningModule as it is, with Phalanx in place of the Trainer: `torchrun --nproc-per-node 2 lightning_module.py`"""

import sys

from digits import Digits, network
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

import phalanx

try:
    from lightning import LightningModule
except ImportError:  # the module below uses nothing of it but the methods' names
    LightningModule = nn.Module


class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = network()

    def training_step(self, batch, batch_idx):
        images, targets = batch
        return cross_entropy(self.network(images), targets)

    def configure_optimizers(self):
        return SGD(self.parameters(), lr=0.05, momentum=0.9)


class Step(nn.Module):
    """Calls `training_step` as a forward, which strategies wrap."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *batch):
        return self.module.training_step(batch, 0)


def losses(model, batch):
    n = len(batch["target"])
    return n * model(batch["input"], batch["target"]), n  # from the mean to the sum


classifier = Classifier()
with phalanx.Training(
    "runs/lightning", Step(classifier), losses, Digits(), lambda parameters: classifier.configure_optimizers(),
    steps=84, global_batch=64, micro_batch=32, overrides=sys.argv[1:],
) as training:  # fmt: skip
    for step in training:
        for batch in step:
            training.backward(losses(training.model, batch))
        training.update()
