"""Fills the keys that a recipe leaves open from the user's accelerate config and DeepSpeed file; refuses contradictions."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from phalanx.configs.errors import UserError
from phalanx.configs.launchers import accelerate_settings, deepspeed_settings
from phalanx.configs.launchers.statement import Statement, Statements, shown
from phalanx.configs.origin import COMMAND_LINE, Origin, Problem
from phalanx.configs.schema import RunConfig, keys
from phalanx.configs.sections.section import Section
from phalanx.configs.strategies import DEEPSPEED
from phalanx.configs.text.encodings import brief
from phalanx.configs.text.yaml_reading import merge, nested

_MISSING = object()


@dataclass
class Filling:
    """The values that other programs' settings add to a recipe.

    Attributes:
        values: nested, as a file's would be.
        filled: the statements behind them, by key.
        problems: settings that contradict the recipe or each other, or that recipes do not have.
    """

    values: dict[str, Any] = field(default_factory=dict)
    filled: dict[str, Statement] = field(default_factory=dict)
    problems: list[tuple[Origin, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Written:
    """The values of this command's files and overrides, above those of the run that it resumes.

    Attributes:
        explicit: nested values of files and overrides.
        where: returns the origin of one of their keys.
        base: nested values of a resumed run. Its experiment counts as if it had been written; the rest may change.
    """

    explicit: dict[str, Any]
    where: Callable[[str], Origin]
    base: dict[str, Any]

    def value(self, key: str) -> Any:
        """The value that was set, or is part of the run's experiment; `_MISSING` otherwise."""
        value = _lookup(self.explicit, key)
        return _lookup(self.base, key) if value is _MISSING and key in _EXPERIMENT else value

    def is_explicit(self, key: str) -> bool:
        return _lookup(self.explicit, key) is not _MISSING


def fill(written: Written, environment: Mapping[str, str] = os.environ) -> Filling:
    """Fills what the recipe leaves open from accelerate's settings and the DeepSpeed file."""
    result = Filling()
    accelerate = _asked(lambda: accelerate_settings.statements(environment), result)
    result.problems += accelerate.refused
    said = accelerate.said
    path = _deepspeed_file(written, accelerate, result)
    if path is not None:
        stated = written.value("dist.precision")
        precision = accelerate.value("dist.precision") if stated is _MISSING else stated
        deepspeed = _asked(lambda: deepspeed_settings.statements(path, precision), result)
        result.problems += deepspeed.refused
        said = said + deepspeed.said
    for statement in sorted(said, key=lambda s: s.implied):  # written values come before defaults
        _take(statement, written, result)
    return result


def gradient_accumulation(config: RunConfig, environment: Mapping[str, str] = os.environ) -> Iterator[tuple[str, int]]:
    """(setting as written, number) for each setting that fixes the micro-batches per rank and step.

    Phalanx computes them from train.global_batch, train.micro_batch and the ranks: compare once those are known.

    Raises:
        UserError: if a file cannot be read.
    """
    try:
        if (accelerate := accelerate_settings.gradient_accumulation(environment)) is not None:
            yield accelerate
    except Problem as problem:
        raise UserError(f"{problem.origin}: {problem.sentence}") from None
    if config.dist.deepspeed is not None and (steps := deepspeed_gradient_accumulation(config.dist.deepspeed)) is not None:
        yield f"{config.dist.deepspeed}: gradient_accumulation_steps={steps}", steps


def deepspeed_gradient_accumulation(path: str) -> int | None:
    """`gradient_accumulation_steps` of a DeepSpeed JSON file; None if it leaves them open.

    Raises:
        UserError: if the file cannot be read, or they are not a positive integer.
    """
    try:
        return deepspeed_settings.deepspeed_gradient_accumulation(path)
    except Problem as problem:
        raise UserError(f"{problem.origin}: {problem.sentence}") from None


def _asked(ask: Callable[[], Statements], result: Filling) -> Statements:
    try:
        return ask()
    except Problem as problem:
        result.problems.append((problem.origin, problem.sentence))
        return Statements()


def _deepspeed_file(written: Written, accelerate: Statements, result: Filling) -> str | None:
    """The DeepSpeed file in use: as written, else accelerate's, else the run's, unless it no longer uses DeepSpeed."""
    if written.is_explicit("dist.deepspeed"):
        explicit = _lookup(written.explicit, "dist.deepspeed")
        return explicit if isinstance(explicit, str) and isinstance(written.explicit["dist"], dict) else None
    if (named := accelerate.value("dist.deepspeed")) is not None:
        return str(named)
    before = _lookup(written.base, "dist.deepspeed")
    explicit = _lookup(written.explicit, "dist.strategy")
    strategy = accelerate.value("dist.strategy") if explicit is _MISSING else explicit
    if isinstance(before, str) and strategy is not None and strategy not in DEEPSPEED:
        result.values = merge(result.values, nested("dist.deepspeed", None))
        return None
    return before if isinstance(before, str) else None


def _take(statement: Statement, written: Written, result: Filling) -> None:
    """Fills a key, or records a contradiction."""
    key, there = statement.key, written.value(statement.key)
    earlier = result.filled.get(key)
    if there is _MISSING and earlier is None:
        result.filled[key] = statement
        result.values = merge(result.values, nested(key, statement.value))
        return
    if statement.implied:
        return
    given = f"{brief(statement.written, 120)} ({key}={brief(shown(statement.value))})"
    if there is not _MISSING:
        if _typed(key, there) == _typed(key, statement.value):
            return
        if written.is_explicit(key):
            place = "the command line" if written.where(key) == COMMAND_LINE else written.where(key)
            sentence = f"{given} contradicts {key}={brief(shown(there))} of {place}. Remove one of them."
        else:
            sentence = f"{given} contradicts {key}={brief(shown(there))} of the run, whose experiment cannot change. Remove it."
    else:
        assert earlier is not None
        if _typed(key, earlier.value) == _typed(key, statement.value):
            return
        sentence = (
            f"{given} contradicts {earlier.written} ({key}={shown(earlier.value)}) of {earlier.origin}. Remove one of them."
        )
    result.problems.append((statement.origin, sentence))


def _lookup(values: Any, key: str) -> Any:
    """The value of a dotted key; `_MISSING` if there is none. A value in place of a section is returned for its keys."""
    for part in key.split("."):
        if not isinstance(values, dict):
            return values
        if part not in values:
            return _MISSING
        values = values[part]
    return values


def _field(key: str) -> FieldInfo:
    section: type[Section] = RunConfig
    *sections, name = key.split(".")
    for part in sections:
        annotation = section.model_fields[part].annotation
        assert isinstance(annotation, type) and issubclass(annotation, Section)
        section = annotation
    return section.model_fields[name]


def _typed(key: str, value: Any) -> Any:
    """A value converted by the schema (`"3e-4"` is 0.0003); unchanged if it is not allowed, which validation reports."""
    field_of_key = _field(key)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field_of_key.annotation, field_of_key])  # type: ignore[arg-type]
        return adapter.validate_python(value)
    except ValidationError:
        return value


_EXPERIMENT = frozenset(key.name for key in keys() if key.tag == "experiment")
