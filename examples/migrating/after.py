"""After: `python after.py`, `torchrun --nproc-per-node 2 after.py` or `accelerate launch after.py`; again to resume.

With a checkpoint of one of the others in the folder, weights and momentum come over: `python after.py name=continued`.
"""

import os
import sys

import torch
from digits import Digits, network
from torch.nn.functional import cross_entropy

import phalanx

before = torch.load("checkpoint.pt", weights_only=True) if os.path.exists("checkpoint.pt") else None
model = network()
if before is not None:
    model.load_state_dict({name.removeprefix("module."): value for name, value in before["model"].items()})


def optimizer(parameters):
    made = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    if before is not None:
        made.load_state_dict(before["optimizer"])  # under `single` and `ddp`, where parameters are not sharded
    return made


def losses(model, batch):
    return cross_entropy(model(batch["input"]), batch["target"], reduction="sum"), len(batch["target"])


def accuracy(model, batch):
    return {"accuracy": ((model(batch["input"]).argmax(1) == batch["target"]).sum(), len(batch["target"]))}


with phalanx.Training(
    "runs/after", model, losses, Digits(), optimizer, steps=84, global_batch=64, micro_batch=32,
    validation=Digits(), measure=accuracy, overrides=sys.argv[1:],
) as training:  # fmt: skip
    for step in training:
        for batch in step:
            training.backward(losses(training.model, batch))
        training.update()
