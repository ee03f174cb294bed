"""The section `dist`: ranks, how they share the model, and the precision of arithmetic."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator

from phalanx.configs.sections.section import Int, Section, divisors, experiment, hardware
from phalanx.configs.strategies import DEEPSPEED, EXACT, STRATEGIES, StrategyName


def _group(value: int | str) -> int | str:
    """`all` and `off` are words; anything else is a number."""
    text = str(value).strip()
    if text in ("off", "all"):
        return text
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 2:
        raise ValueError("off, all, or a whole number of micro-batches of 2 or more")
    return int(text)


SyncBn = Annotated[int | str, AfterValidator(_group)]


class DistConfig(Section):
    strategy: StrategyName = hardware(
        "ddp",
        "how ranks share the model: ddp replicates it; fsdp (FSDP2) shards it; hsdp shards within a node and replicates across "
        "nodes; zero1, zero2, zero3 (DeepSpeed) shard the optimizer, also the gradients, also the weights",
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16", "fp64"] = experiment(
        "fp32",
        "precision of arithmetic; weights are float32 except for fp64. bf16 and fp16 are mixed precision by autocast, fp16 "
        "with loss scaling",
    )
    loss_scale: float = experiment(65536.0, "fp16: the initial loss scale", ge=1)
    loss_scale_window: Int = experiment(2000, "fp16: steps without overflow after which the loss scale doubles", ge=1)
    sync_bn: SyncBn = experiment(
        "off",
        "micro-batches over which BatchNorm statistics are computed: off for one, N for N in a row, all for the whole step",
    )
    reduce: Literal["fast", "exact"] = hardware(
        "fast",
        "how gradients are summed: in the fastest order, or by one fixed tree: the same bits on any number of ranks",
    )
    exchange: Literal["step", "micro_batch"] = hardware(
        "step",
        "when fsdp and hsdp exchange gradients: once per step, which keeps a full gradient on each rank, or after every "
        "micro-batch, which keeps a shard",
    )
    shard_ranks: Int | None = hardware(
        None, "hsdp: number of ranks that share one copy of the weights; those of a node if null", ge=1
    )
    reshard_after_forward: bool = hardware(
        True, "fsdp, hsdp: free the gathered weights of a block after its forward, and gather them again for its backward"
    )
    gather: Literal["full", "half"] = hardware(
        "full",
        "fsdp, hsdp with bf16 or fp16: gather weights in float32, as all strategies compute, or in half precision with half "
        "the bytes, which also rounds parameters outside convolutions and linear layers",
    )
    offload: bool = hardware(
        False, "keep the optimizer (zero1, zero2, zero3), or weights, gradients and optimizer (fsdp, hsdp) in CPU memory"
    )
    deepspeed: str | None = hardware(
        None, "DeepSpeed JSON file; fills keys of the recipe that are not set, and is passed to DeepSpeed"
    )
    channels_last: bool = hardware(False, "channels-last memory format of images and convolutions, which is faster on GPUs")
    compile: bool = hardware(False, "torch.compile the model")
    device: Literal["auto", "cpu", "cuda"] = hardware("auto", "auto uses GPUs if there are any")
    threads: Int | None = hardware(
        None, "CPU threads per rank; if null, OMP_NUM_THREADS, or 1, as torchrun and accelerate launch choose", ge=1
    )
    interface: str | None = hardware(
        None, "multi-node: network interface between the nodes, such as ib0; the one that srun used if null"
    )
    hang_s: float = hardware(
        900.0,
        "seconds without progress after which the run counts as hung, and ends naming the rank; 0: never. Should be smaller "
        "than timeout_s, which would blame the ranks that wait",
        ge=0,
    )
    timeout_s: float = hardware(1800.0, "seconds after which an unfinished collective is an error", gt=0)


def contradictions(dist: DistConfig, micro_batches: int) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence for values that are each allowed but do not go together.

    Args:
        micro_batches: of a step.
    """
    if isinstance(dist.sync_bn, int) and micro_batches % dist.sync_bn:
        fits = divisors(micro_batches)[1:]
        allowed = ", ".join(map(str, fits[:20])) or "off"
        yield (
            "dist.sync_bn",
            f"dist.sync_bn={dist.sync_bn} does not divide the {micro_batches} micro-batches of a step "
            f"(train.global_batch / train.micro_batch). Set one of: {allowed}.",
        )
    spec = STRATEGIES[dist.strategy]
    if dist.reduce == "exact" and spec.exact_module is None:
        yield (
            "dist.reduce",
            f"dist.reduce=exact runs under {_listed(EXACT)}, not {dist.strategy}, which sums in an order of its own. "
            "Set dist.strategy=ddp, or dist.reduce=fast.",
        )
    if dist.reduce == "exact" and dist.sync_bn != "off":
        both = f"dist.reduce=exact with dist.sync_bn={dist.sync_bn} runs the forwards of a rank's micro-batches in lockstep"
        if spec.exact_module is not None and spec.collective:
            yield (
                "dist.reduce",
                f"{both}, while {dist.strategy} gathers weights for one forward after another. Set dist.strategy=ddp, "
                "dist.sync_bn=off, or dist.reduce=fast.",
            )
        if dist.compile:
            remedy = "Set dist.compile=false, dist.sync_bn=off, or dist.reduce=fast."
            yield "dist.compile", f"{both}, which compiled code cannot. {remedy}"
    if dist.precision == "fp64" and spec.deepspeed:
        yield "dist.precision", f"DeepSpeed ({dist.strategy}) has no fp64. Set dist.strategy=fsdp, or dist.precision=fp32."
    if dist.shard_ranks is not None and not spec.replicates:
        yield "dist.shard_ranks", f"dist.shard_ranks is for hsdp, not {dist.strategy}. Remove it, or set dist.strategy=hsdp."
    if dist.offload and not spec.shards:
        yield "dist.offload", f"dist.offload=true needs fsdp, hsdp or zero1 to zero3, not {dist.strategy}. Set one, or false."
    if dist.gather == "half" and (not spec.is_fsdp or dist.precision not in ("bf16", "fp16")):
        yield "dist.gather", "dist.gather=half needs fsdp or hsdp, and bf16 or fp16. Set dist.gather=full."
    if dist.deepspeed is not None and not spec.deepspeed:
        yield (
            "dist.deepspeed",
            f"dist.deepspeed={dist.deepspeed} is for {_listed(DEEPSPEED)}, not {dist.strategy}. Remove it, or set one of them.",
        )


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
