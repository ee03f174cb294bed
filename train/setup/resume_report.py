"""The report printed when a run resumes: its position, and what has changed. No torch here."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from phalanx.configs.launchers.statement import shown
from phalanx.configs.load import differences
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint.manifest import Manifest
from phalanx.dist.memory import RankMemory, Sharing, memory_per_rank

Row = tuple[str, str, str]
_PARTS = {"weights": "weights", "gradients": "gradients", "optimizer": "optimizer state", "averages": "averaged weights"}


@dataclass(frozen=True)
class Setting:
    """The resources of a run.

    Attributes:
        last_step: the run's length in steps.
        local_world: ranks per node.
    """

    config: RunConfig
    world_size: int
    last_step: int
    local_world: int

    @property
    def strategy(self) -> str:
        return self.config.dist.strategy

    @property
    def micro_batches(self) -> tuple[int, int]:
        """The fewest and the most micro-batches per rank in a step."""
        total = self.config.micro_batches
        return total // self.world_size, -(-total // self.world_size)

    def memory(self, stored: Manifest) -> RankMemory:
        return memory_per_rank(stored.tensors, Sharing.of(self.config, self.world_size, self.local_world))


def as_written(stored: Manifest, before: RunConfig, last_step: int, local_world: int) -> Setting:
    """The resources with which a checkpoint was written.

    Args:
        before: the configuration of the run's last start; the checkpoint itself records the strategy.
    """
    dist = before.dist.model_copy(update={"strategy": stored.strategy})
    return Setting(before.model_copy(update={"dist": dist}), stored.world_size, last_step, min(local_world, stored.world_size))


@dataclass(frozen=True)
class ResumeReport:
    """A run that resumes from a checkpoint, before and now.

    Attributes:
        stored: the checkpoint.
        samples: number of samples of the dataset.
        logged: the last step logged before; steps after the checkpoint's are repeated.
    """

    stored: Manifest
    before: Setting
    now: Setting
    samples: int
    logged: int = 0

    @property
    def changed_keys(self) -> list[tuple[str, Any, Any]]:
        """(key, before, now) of the hardware's keys that differ, except for the strategy, which has its own row."""
        found = differences(self.before.config, self.now.config, ["hardware"])
        return [(key, old, new) for key, old, new in found if key != "dist.strategy"]

    @property
    def changed(self) -> bool:
        """Whether the hardware has changed."""
        return (
            self.before.world_size != self.now.world_size
            or self.before.strategy != self.now.strategy
            or bool(self.changed_keys)
        )

    def lines(self) -> list[str]:
        """The text of the report: one line, and a table of before and now if something changed."""
        ranks = f"{self.now.world_size} rank{'s' if self.now.world_size > 1 else ''}"
        said = [f"resumes at step {self.stored.step} of {self.now.last_step}, on {ranks} ({self.now.strategy})"]
        if self.changed:
            said += _aligned([("", "before", "now"), *self._rows()])
        first = self.stored.step + 1
        if self.logged >= first:
            again = f"step {first} was logged before and is repeated"
            several = f"steps {first} to {self.logged} were logged before and are repeated"
            said.append(f"{again if self.logged == first else several}")
        return said

    def _rows(self) -> Iterator[Row]:
        before, now = self.before, self.now
        yield "ranks", str(before.world_size), str(now.world_size)
        yield "strategy", before.strategy, now.strategy
        for key, old, new in self.changed_keys:
            yield key, shown(old), shown(new)
        yield "micro-batches per rank", _span(before.micro_batches), _span(now.micro_batches)
        yield from _memory_rows(before.memory(self.stored), now.memory(self.stored))
        yield "step", f"{self.stored.step} of {before.last_step}", f"{self.stored.step} of {now.last_step}"
        yield "samples seen", f"{self.stored.samples:,}", f"{self.stored.samples:,}"
        epoch, place = self.position
        where = f"epoch {epoch}, {place:,} of {self.samples:,}"
        yield "data position", where, where

    @property
    def position(self) -> tuple[int, int]:
        """Epoch, from 0, and the place in it of the next sample."""
        return divmod(self.stored.samples, self.samples)

    def to_json(self) -> dict[str, Any]:
        """For events.jsonl."""
        epoch, place = self.position
        settings = {"before": self.before, "now": self.now}
        summary = {name: self._summary(setting) for name, setting in settings.items()}
        changed = {key: [old, new] for key, old, new in self.changed_keys}
        return {**summary, "changed": changed, "position": {"epoch": epoch, "place": place, "samples": self.samples}}

    def _summary(self, setting: Setting) -> dict[str, Any]:
        summary = {"world_size": setting.world_size, "strategy": setting.strategy, "last_step": setting.last_step}
        return summary | {"micro_batches": setting.micro_batches, "memory": asdict(setting.memory(self.stored))}


def _memory_rows(before: RankMemory, now: RankMemory) -> Iterator[Row]:
    yield "memory per rank", _size(before.total), _size(now.total)
    for name, said in _PARTS.items():
        sizes = [getattr(side, name) for side in (before, now)]
        if any(sizes):
            where = [" in CPU memory" if name in side.on_host else "" for side in (before, now)]
            yield f"  {said}", _size(sizes[0]) + where[0], _size(sizes[1]) + where[1]


def _aligned(rows: list[Row]) -> list[str]:
    name, left = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [f"  {row[0]:{name}}  {row[1]:{left}}  {row[2]}".rstrip() for row in rows]


def _span(numbers: tuple[int, int]) -> str:
    """`2`, or `2 to 3`."""
    return str(numbers[0]) if numbers[0] == numbers[1] else f"{numbers[0]} to {numbers[1]}"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
