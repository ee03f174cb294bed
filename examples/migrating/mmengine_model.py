"""A model of mmengine as it is, with Phalanx in place of the Runner: `torchrun --nproc-per-node 2 mmengine_model.py`"""

import sys

from digits import Digits, network
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

import phalanx

try:
    from mmengine.model import BaseModel
except ImportError:  # the model below uses nothing of it but the form of `forward`
    BaseModel = nn.Module


class Classifier(BaseModel):
    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, inputs, data_samples=None, mode="tensor"):
        logits = self.network(inputs)
        return {"loss_cls": cross_entropy(logits, data_samples)} if mode == "loss" else logits


def losses(model, batch):
    n = len(batch["target"])
    found = model(batch["input"], batch["target"], mode="loss")
    return {name: (n * mean, n) for name, mean in found.items()}  # from means to sums


def optimizer(parameters):
    return SGD(parameters, lr=0.05, momentum=0.9)


with phalanx.Training(
    "runs/mmengine", Classifier(), losses, Digits(), optimizer,
    steps=84, global_batch=64, micro_batch=32, overrides=sys.argv[1:],
) as training:  # fmt: skip
    for step in training:
        for batch in step:
            training.backward(losses(training.model, batch))
        training.update()
