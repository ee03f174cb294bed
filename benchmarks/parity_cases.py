"""What `parity.py` compares: small models and losses, training by Phalanx's engine, and the same training written by hand."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.dist.microbatches.forward_passes import stats_group_size
from phalanx.dist.microbatches.randomness import key, seed_everything

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig

RECIPE = str(Path(__file__).resolve().parent.parent / "configs/recipes/digits_resnet18.yaml")
SAMPLES, CLASSES, LEARNING_RATE, SEED = 4, 5, 0.05, 3
REPORT_AFTER = (1, 5, 20)
NO_TRUE_GRADIENT = 1e-6  # of the model's largest: attention's key bias
Tensors = dict[str, numpy.ndarray]


def _cnn(norm: Callable[[int], nn.Module], dropout: float) -> nn.Module:
    # Without biases before BatchNorm: they would have no gradient but rounding, and shift its running mean.
    bias = norm is not nn.BatchNorm2d
    body = [nn.Conv2d(2, 8, 3, bias=bias), norm(8), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=bias), norm(6), nn.ReLU()]
    return nn.Sequential(nn.Sequential(*body), nn.Dropout(dropout), nn.Flatten(), nn.Linear(96, CLASSES))


class _Block(nn.Module):
    """Attention and a perceptron, each after a LayerNorm; queries, keys and values are layers of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        normal = self.norm1(tokens)
        parts = [layer(normal).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        found = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)  # [B, tokens, width]
        tokens = tokens + self.out(found)
        return tokens + self.perceptron(self.norm2(tokens))


class _Transformer(nn.Module):
    """A small vision transformer: patches of 4 x 4, two blocks, class by the mean of all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 16, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 4, 16) * 0.1)
        self.blocks = nn.ModuleList([_Block(16, heads=2) for _ in range(2)])
        self.head = nn.Linear(16, CLASSES)
        self.block_names = ("blocks.0", "blocks.1")

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.position  # [B, 4, 16]
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "cnn": lambda: _cnn(nn.BatchNorm2d, 0.0),
    "cnn+dropout": lambda: _cnn(nn.BatchNorm2d, 0.2),
    "cnn without norm": lambda: _cnn(lambda channels: nn.Identity(), 0.0),
    "transformer": _Transformer,
}


def build(model: str) -> nn.Module:
    """The same weights on every rank."""
    seed_everything(SEED)
    return MODELS[model]()


def micro_batch(step: int, number: int) -> dict[str, Any]:
    """Four images of 8 x 8; their targets leave between none and three of them out."""
    generator = torch.Generator().manual_seed(key(step, number))
    image = torch.randn(SAMPLES, 2, 8, 8, generator=generator)
    target = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    target[: (step + number) % SAMPLES] = -100
    return {"image": image, "target": target}


def weights(batch: Mapping[str, Any]) -> dict[str, float]:
    kept = batch["target"] >= 0
    return {"labels": float(kept.sum()), "size": float((kept & (batch["target"] < 2)).sum())}


def losses(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, float]]:
    """Cross-entropy over the labels that are kept, and an auxiliary loss over those of two classes."""
    logits, target = model(batch["image"]), batch["target"]
    few = ((target >= 0) & (target < 2)).to(logits.dtype)
    own = weights(batch)
    return {
        "labels": (F.cross_entropy(logits, target, reduction="sum", ignore_index=-100), own["labels"]),
        "size": (0.1 * (logits.square().mean(1) * few).sum(), own["size"]),
    }


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01),
}


def maker(name: str, by_itself: bool = False) -> Callable[[Any], torch.optim.Optimizer]:
    """What makes an optimizer from parameters: one of `OPTIMIZERS`, else as a recipe names it, or as torch or timm makes it."""
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    from benchmarks import optimizer_cases

    made: Callable[[Any], torch.optim.Optimizer] = (optimizer_cases.by_itself if by_itself else optimizer_cases.ours)(name)
    return made


def config(recipe: str, micro_batches: int, *overrides: str) -> "RunConfig":
    from phalanx.configs.load import load

    sizes = [f"train.global_batch={SAMPLES * micro_batches}", f"train.micro_batch={SAMPLES}", "train.steps=20", f"seed={SEED}"]
    return load([recipe], [*sizes, *overrides])


def trained(
    world: World, settings: "RunConfig", model: str, optimizer: str, report_after: tuple[int, ...] = REPORT_AFTER
) -> dict[int, dict[str, Any]]:
    """Trains by the engine.

    Returns:
        After each of some steps: `loss`, and this rank's `entries` (name, shape, start, elements, whether every rank has them).
    """
    make = maker(optimizer)
    engine = Engine(build(model), lambda named: make(named.values()), lambda step: LEARNING_RATE, settings, world)
    share = engine.warm_up_share
    engine.warm_up(losses, [micro_batch(0, v) for v in range(share.first, share.last)])
    reports = {}
    for step in range(max(report_after)):
        batch = [micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
        for part in engine.micro_batches(step, batch, [weights(b) for b in batch]):
            engine.backward(engine.losses(losses, part))
        engine.step()
        if step + 1 in report_after:
            figures = engine.settle()[-1]
            entries = [
                (e.name, e.shape, e.start, e.tensor.detach().cpu().numpy().copy(), e.replicated) for e in engine.entries()
            ]
            reports[step + 1] = {"loss": sum(figures.losses.values()), "entries": entries}
    return reports


def assembled(reports: list[dict[int, dict[str, Any]]], step: int) -> tuple[float, Tensors]:
    """One whole tensor a name out of all ranks' parts; what every rank has must be the same bits on each."""
    tensors: Tensors = {}
    for rank, report in enumerate(reports):
        for name, shape, start, part, replicated in report[step]["entries"]:
            if rank and replicated:
                assert part.tobytes() == tensors[name].tobytes(), f"{name}: rank {rank} holds other bits than rank 0"
                continue
            whole = tensors.setdefault(
                name, numpy.full(math.prod(shape), numpy.nan if part.dtype.kind == "f" else -1, part.dtype)
            )
            whole[start : start + part.size] = part.reshape(-1)
    losses_of_ranks = {report[step]["loss"] for report in reports}
    assert len(losses_of_ranks) == 1, f"the ranks report different losses: {losses_of_ranks}"
    return losses_of_ranks.pop(), tensors


def by_hand(
    model_name: str,
    micro_batches: int,
    sync_bn: str,
    optimizer_name: str,
    dtype: torch.dtype,
    report_after: tuple[int, ...] = REPORT_AFTER,
) -> dict[int, tuple[float, Tensors]]:
    """The same training in plain torch, on one process: micro-batches that synchronize statistics in one forward."""
    model = build(model_name).to(dtype).train()
    group_size = stats_group_size(sync_bn, micro_batches)
    chains = [{n: b.clone() for n, b in model.named_buffers()} for _ in range(0, micro_batches, group_size)]
    optimizer = maker(optimizer_name, by_itself=True)(model.parameters())
    reports = {}
    for step in range(max(report_after)):
        batches = [micro_batch(step, v) for v in range(micro_batches)]
        totals = {name: sum(weights(b)[name] for b in batches) for name in ("labels", "size")}
        optimizer.zero_grad()
        loss = 0.0
        for group, chain in enumerate(chains):
            for name, buffer in model.named_buffers():
                buffer.copy_(chain[name])
            seed_everything(key(SEED, "noise", step, group * group_size))
            members = batches[group * group_size : (group + 1) * group_size]
            image = torch.cat([b["image"] for b in members]).to(dtype)
            found = losses(model, {"image": image, "target": torch.cat([b["target"] for b in members])})
            share = torch.stack([total / totals[name] if totals[name] else total for name, (total, _) in found.items()]).sum()
            share.backward()
            loss += share.item()
            chains[group] = {n: b.clone() for n, b in model.named_buffers()}
        optimizer.step()
        if step + 1 in report_after:
            reports[step + 1] = loss, _state(model, optimizer, chains, group_size)
    return reports


def _state(model: nn.Module, optimizer: torch.optim.Optimizer, chains: list[dict[str, Tensor]], group_size: int) -> Tensors:
    """Everything under the names that a checkpoint gives it, flattened."""
    named = dict(model.named_parameters())
    state = {name: parameter.detach().clone() for name, parameter in named.items()}
    for name, parameter in named.items():
        moments = {k: v.clone() for k, v in optimizer.state[parameter].items() if isinstance(v, Tensor) and v.dim()}
        state |= {f"{name}@{k}": v for k, v in moments.items()}
    for name in chains[0]:
        state[f"{name}@micro_batches"] = torch.stack([chain[name] for chain in chains for _ in range(group_size)])
    return {name: tensor.numpy().reshape(-1) for name, tensor in state.items()}


def differences(mine: tuple[float, Tensors], expected: tuple[float, Tensors]) -> dict[str, Any]:
    """The worst max|a - b| / max|b| over the tensors of each kind; apart, those of parameters without a true gradient."""
    (loss, a), (loss_by_hand, b) = mine, expected
    assert a.keys() == b.keys(), f"different tensors: {sorted(a.keys() ^ b.keys())}"
    moment = next((suffix for suffix in ("@momentum_buffer", "@exp_avg") if any(n.endswith(suffix) for n in b)), None)
    moments = {n.removesuffix(moment): abs(b[n]).max() for n in b if n.endswith(moment)} if moment else {}
    idle = {name for name, most in moments.items() if most < NO_TRUE_GRADIENT * max(moments.values())}
    worst = {"loss": abs(loss - loss_by_hand) / abs(loss_by_hand), "gradients": 0.0, "weights": 0.0, "buffers": 0.0}
    apart: dict[str, float] = {}
    for name in b:
        owner, _, suffix = name.partition("@")
        kind = {"": "weights", "micro_batches": "buffers"}.get(suffix, "gradients")
        relative = float(abs(a[name] - b[name]).max() / max(abs(b[name]).max(), 1e-300))
        if owner in idle:
            apart[name] = float(abs(a[name] - b[name]).max())
        else:
            worst[kind] = max(worst[kind], relative if not math.isnan(relative) else math.inf)
    return worst | {"bitwise": all(a[n].tobytes() == b[n].tobytes() for n in b), "without gradient": apart}
