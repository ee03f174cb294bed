"""Reads YAML files and `key=value` overrides into one frozen `RunConfig`; reports everything that is wrong at once."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from phalanx.configs.errors import UserError
from phalanx.configs.foreign import Filling, Written, fill
from phalanx.configs.reading import COMMAND_LINE, Origin, Problem, merge, override, read
from phalanx.configs.schema import RunConfig, contradictions, flat, keys
from phalanx.configs.statement import Statement

OVERRIDE = re.compile(r"[A-Za-z_][\w]*(\.[\w]+)*=")


def _nearest(unknown: str) -> str:
    """The valid key that was probably meant: alike as a whole, or alike in its last word."""
    names = [key.name for key in keys()]
    sections = sorted({name.rpartition(".")[0] for name in names} - {""})
    close = difflib.get_close_matches(unknown, names + sections, n=1, cutoff=0.6)
    if not close:
        by_word = {name.rpartition(".")[2]: name for name in names}
        close = [by_word[w] for w in difflib.get_close_matches(unknown.rpartition(".")[2], list(by_word), n=1, cutoff=0.7)]
    return f" Did you mean {close[0]}?" if close else " `phalanx config --keys` lists all keys."


def _sentence(error: Any, key: str) -> str:
    """One of pydantic's errors in our words: what is wrong, what is allowed."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        meaning = next((k.meaning for k in keys() if k.name == key), "")
        return f"{key} is missing. Set it" + (f": {meaning}." if meaning else ".")
    if kind == "extra_forbidden":
        return f"unknown key {key}.{_nearest(key)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key} is a section with keys of its own, not {given!r}. Write its keys below it."
    wanted = {
        "int_parsing": "a whole number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_parsing": "a number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_parsing": "true or false",
        "bool_type": "true or false",
        "string_type": "text",
        "tuple_type": "a list",
        "literal_error": f"one of {context.get('expected', '')}",
    }.get(kind)
    if wanted is None:
        wanted = re.sub(r"^(Input|Value error)( should be|,) ?", "", error["msg"])
    shown = "null" if given is None else given
    remedy = ""
    if kind == "literal_error" and isinstance(given, str):
        allowed = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        close = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
        remedy = f" Did you mean {close[0]}?" if close else ""
    return f"{key}={shown} is not allowed; wanted: {wanted}.{remedy}"


def _leaves(value: Any, key: str) -> list[str]:
    """The keys below an unknown section, each to be named by itself; the key itself where there are none."""
    if not isinstance(value, dict) or not value:
        return [key]
    return [leaf for name, below in value.items() for leaf in _leaves(below, f"{key}.{name}")]


def _refuse(problems: Sequence[tuple[Origin, str]]) -> UserError:
    return UserError("\n".join(f"{origin}: {sentence}" for origin, sentence in problems))


def _core_schema(value: Any) -> Any:
    """Text to number or boolean, for values whose type the schema leaves open (YAML 1.2 core schema)."""
    if isinstance(value, dict):
        return {k: _core_schema(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_core_schema(v) for v in value]
    if not isinstance(value, str):
        return value
    if value in ("true", "True", "false", "False"):
        return value[0] in "tT"
    if re.fullmatch(r"[+-]?\d+", value):
        return int(value)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
        return float(value)
    return value


@dataclass
class _Sources:
    """What files and overrides say, merged, with the origin of every key."""

    files: Sequence[str]
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)

    def where(self, key: str) -> Origin:
        """The line of the key, else of the section it is missing from, else the last file."""
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key.rpartition(".")[0]
        return Origin(self.files[-1]) if self.files else COMMAND_LINE


def _sources(files: Sequence[str], overrides: Sequence[str]) -> _Sources:
    sources, problems = _Sources(files), []
    for reader, texts in ((read, files), (override, overrides)):
        for text in texts:
            try:
                new, found = reader(text)
            except Problem as problem:
                problems.append((problem.origin, problem.sentence))
                continue
            sources.values = merge(sources.values, new)
            sources.origins.update(found)
    if problems:
        raise _refuse(problems)
    return sources


def load(files: Sequence[str], overrides: Sequence[str] = (), base: dict[str, Any] | None = None) -> RunConfig:
    """Merges files, then overrides; later wins. What they leave open, the user's accelerate config and DeepSpeed file fill.

    Args:
        files: paths of YAML files.
        overrides: `key=value` texts, the value as YAML would have it.
        base: values below everything else, as `RunConfig.model_dump` gives them (a run that is resumed).

    Raises:
        UserError: with one line for every problem found: file and line, key, value, what is allowed.
    """
    sources = _sources(files, overrides)
    return _validated(sources, base or {}, fill(Written(sources.values, sources.where, base or {})))


def stored(path: str) -> RunConfig:
    """A resolved configuration read back as it was written: nothing fills it, and nothing can contradict it.

    Raises:
        UserError: as `load`.
    """
    return _validated(_sources([path], []), {}, Filling())


def filled(files: Sequence[str], overrides: Sequence[str] = (), base: dict[str, Any] | None = None) -> list[Statement]:
    """What `load` fills from the user's accelerate config and DeepSpeed file, by key and in the schema's order."""
    sources = _sources(files, overrides)
    found = fill(Written(sources.values, sources.where, base or {})).filled
    return [found[key.name] for key in keys() if key.name in found]


def _validated(sources: _Sources, base: dict[str, Any], filling: Filling) -> RunConfig:
    """The configuration, in which a run's values count least, then foreign ones, then those of files and overrides."""
    values = merge(merge(base, filling.values), sources.values)
    sources.origins = {key: said.origin for key, said in filling.filled.items()} | sources.origins
    problems = list(filling.problems)
    if sources.files and values.get("name") is None:
        values["name"] = re.sub(r"[^A-Za-z0-9._-]", "-", Path(sources.files[0]).stem)
    for section in ("task", "data", "model"):
        if isinstance(values.get(section), dict) and isinstance(values[section].get("options"), dict):
            values[section] = {**values[section], "options": _core_schema(values[section]["options"])}
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            for leaf in _leaves(item["input"], key) if item["type"] == "extra_forbidden" else [key]:
                problems.append((sources.where(leaf), _sentence(item, leaf)))
        raise _refuse(problems) from None
    # Beside contradictions between programs, those between keys would be their consequences.
    problems = problems or [(sources.where(key), sentence) for key, sentence in contradictions(config)]
    if problems:
        raise _refuse(problems)
    return config


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command line arguments to (files, overrides): `a.b=c` is an override unless a file has that name."""
    overrides = [a for a in arguments if OVERRIDE.match(a) and not Path(a).exists()]
    return [a for a in arguments if a not in overrides], overrides


def differences(old: RunConfig, new: RunConfig, tags: Sequence[str]) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of the keys with one of the tags that differ."""
    before, after = flat(old), flat(new)
    return [(k.name, before[k.name], after[k.name]) for k in keys() if k.tag in tags and before[k.name] != after[k.name]]


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load` reads back to the same values."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
