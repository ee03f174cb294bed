"""Bytes that a rank holds of a model, its gradients and its optimizer, from names and shapes alone. No torch here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from phalanx.configs.schema import RunConfig
from phalanx.configs.strategies import STRATEGIES, StrategySpec
from phalanx.dist.checkpoint.layout import EMA, ITEM_SIZE, MICRO_BATCHES, elements
from phalanx.dist.checkpoint.manifest import StoredTensor
from phalanx.dist.microbatches.forward_passes import stats_group_size
from phalanx.dist.microbatches.sampler import share

_KINDS = ("model", "optimizer", "ema", "ema_buffers", "statistics")


@dataclass(frozen=True)
class Sharing:
    """How a model is sharded, as far as memory depends on it.

    Attributes:
        strategy: as `dist.strategy`.
        world_size: number of ranks.
        shard_ranks: ranks that share one copy of the weights; used by hsdp only.
        offload: as `dist.offload`.
        keeps_full_gradients: whether a rank holds full gradients until a step's last backward (fsdp, hsdp).
    """

    strategy: str
    world_size: int
    shard_ranks: int = 1
    offload: bool = False
    keeps_full_gradients: bool = False

    @property
    def spec(self) -> StrategySpec:
        return STRATEGIES[self.strategy]

    @classmethod
    def of(cls, config: RunConfig, world_size: int, local_world: int) -> "Sharing":
        """The sharding of a run.

        Args:
            local_world: ranks per node, which share the weights under hsdp if `dist.shard_ranks` is not set.
        """
        dist = config.dist
        once_a_step = STRATEGIES[dist.strategy].is_fsdp and dist.exchange == "step" and dist.reduce == "fast"
        whole = once_a_step and _most_passes(config, world_size) > 1
        return cls(dist.strategy, world_size, dist.shard_ranks or local_world, dist.offload, whole)


@dataclass(frozen=True)
class RankMemory:
    """Bytes that one rank holds.

    Attributes:
        weights: parameters and buffers, including BatchNorm's statistics of the rank's micro-batches.
        gradients: accumulated over a step's micro-batches.
        optimizer: its state, and DeepSpeed's copy of the weights.
        averages: averaged weights and buffers.
        on_host: names of those above that are in CPU memory (`dist.offload`).
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int
    on_host: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Bytes on the rank's device."""
        parts = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer, "averages": self.averages}
        return sum(size for name, size in parts.items() if name not in self.on_host)


def memory_per_rank(tensors: Mapping[str, StoredTensor], sharing: Sharing) -> RankMemory:
    """The bytes of the rank with the largest shards (the first one's) and the most rows of statistics.

    Not counted: activations; communication buffers (DDP's buckets, as large as the gradients, and DeepSpeed's);
    the weights that FSDP and ZeRO-3 gather for a block, and the small parameters that ZeRO-3 keeps gathered; partial sums
    of `dist.reduce=exact`, and its gradients for each of a rank's micro-batches with `dist.sync_bn`; what the optimizer
    allocates in its step. Gradients have the dtype of the weights.

    A tensor counts as trained if the optimizer has a state for it; without any state (sgd without momentum) all floats do.

    Args:
        tensors: of a checkpoint's manifest, by name.
    """
    kinds: dict[str, dict[str, StoredTensor]] = {kind: {} for kind in _KINDS}
    for name, tensor in tensors.items():
        kinds[tensor.kind][name] = tensor
    owners = {name.rpartition("@")[0] for name in kinds["optimizer"]}
    model = kinds["model"]
    trained = [t for name, t in model.items() if (name in owners if owners else _may_be_trained(t))]
    parameters = [t for t in model.values() if _may_be_trained(t)]
    rest = [t for t in model.values() if not _may_be_trained(t)]

    spec = sharing.spec
    weights = _parts(parameters, sharing) if "weights" in spec.shards else _full(parameters)
    whole_gradients = "gradients" not in spec.shards or sharing.keeps_full_gradients
    # DeepSpeed's optimizer steps parts of its own, unless the weights are such parts already.
    has_copy = spec.deepspeed and ("weights" not in spec.shards or sharing.offload)
    return RankMemory(
        weights=weights + _full(rest) + _statistics(kinds["statistics"].values(), sharing.world_size),
        gradients=_full(trained) if whole_gradients else _parts(trained, sharing),
        optimizer=_state(kinds["optimizer"], sharing) + (_parts(trained, sharing) if has_copy else 0),
        averages=_state(kinds["ema"], sharing) + _averaged_buffers(kinds["ema_buffers"], sharing.world_size),
        on_host=_on_host(sharing),
    )


def _may_be_trained(tensor: StoredTensor) -> bool:
    """Whether it can be a parameter: strategies shard neither buffers nor tensors without dimensions."""
    return tensor.dtype.startswith(("F", "BF")) and bool(tensor.shape)


def _full(tensors: Iterable[StoredTensor]) -> int:
    return sum(t.elements * ITEM_SIZE[t.dtype] for t in tensors)


def _parts(tensors: Sequence[StoredTensor], sharing: Sharing) -> int:
    """Bytes of the first rank's shards, including a strategy's padding."""
    world = sharing.world_size
    spec = sharing.spec
    if spec.is_fsdp:
        ranks = sharing.shard_ranks if spec.replicates else world
        rows = [(-(-t.shape[0] // ranks) if t.shape else 1, t) for t in tensors]
        return sum(count * elements(t.shape[1:]) * ITEM_SIZE[t.dtype] for count, t in rows)
    if "weights" in spec.shards:
        return sum(-(-t.elements // world) * ITEM_SIZE[t.dtype] for t in tensors)
    if spec.shards:
        # One flat tensor, cut into parts of an even number of elements.
        item = max((ITEM_SIZE[t.dtype] for t in tensors), default=0)
        return -(-sum(t.elements for t in tensors) // (2 * world)) * 2 * item
    return _full(tensors)


def _state(tensors: Mapping[str, StoredTensor], sharing: Sharing) -> int:
    """Bytes of the tensors named `PARAMETER@STATE`, which are sharded as the parameters are; each state by itself."""
    states: dict[str, list[StoredTensor]] = {}
    for name, tensor in tensors.items():
        states.setdefault(name.rpartition("@")[2], []).append(tensor)
    return sum(_parts(found, sharing) for found in states.values())


def _statistics(tensors: Iterable[StoredTensor], world_size: int) -> int:
    """Bytes of the rows [V, ...] of a rank's micro-batches, and of the row that its BatchNorm layer uses."""
    return sum((-(-t.shape[0] // world_size) + 1) * elements(t.shape[1:]) * ITEM_SIZE[t.dtype] for t in tensors)


def _averaged_buffers(tensors: Mapping[str, StoredTensor], world_size: int) -> int:
    """Bytes of the averages of a rank's rows of statistics, and of other buffers, which each rank holds."""
    rows = [t for name, t in tensors.items() if name.endswith(MICRO_BATCHES + EMA)]
    others = [t for name, t in tensors.items() if not name.endswith(MICRO_BATCHES + EMA)]
    return sum(-(-t.shape[0] // world_size) * elements(t.shape[1:]) * ITEM_SIZE[t.dtype] for t in rows) + _full(others)


def _on_host(sharing: Sharing) -> tuple[str, ...]:
    if not sharing.offload:
        return ()
    if sharing.spec.is_fsdp:
        return ("weights", "gradients", "optimizer", "averages")
    return ("gradients", "optimizer", "averages") if "gradients" in sharing.spec.shards else ("optimizer", "averages")


def _most_passes(config: RunConfig, world_size: int) -> int:
    """Forward passes of a step on the rank that has the most."""
    group_size = stats_group_size(config.dist.sync_bn, config.micro_batches)
    shares = [share(config.micro_batches, rank, world_size) for rank in range(world_size)]
    return max(-(-mine.last // group_size) - mine.first // group_size for mine in shares)
