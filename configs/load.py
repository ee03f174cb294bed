"""Reads YAML files and `key=value` overrides into one frozen `RunConfig`; reports all errors at once."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from phalanx.configs import credentials, open_values, places
from phalanx.configs.errors import UserError
from phalanx.configs.launchers.filling import Filling, Written, fill
from phalanx.configs.launchers.statement import Statement
from phalanx.configs.messages import nearest
from phalanx.configs.messages.refusals import MOST, sentences
from phalanx.configs.origin import COMMAND_LINE, Origin, Problem
from phalanx.configs.schema import RunConfig, contradictions, flat, keys
from phalanx.configs.text.yaml_reading import merge, override, read

_TEXTS = [key.name for key in keys() if key.kind == "str or null" and key.name.count(".") == 1]
OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.[\w-]+)*=")


def _refuse(problems: Sequence[tuple[Origin, str]]) -> UserError:
    lines = [f"{origin}: {sentence}" for origin, sentence in problems[:MOST]]
    if (more := len(problems) - MOST) > 0:
        lines.append(f"and {more} more. Correct these first.")
    return UserError("\n".join(lines))


@dataclass
class _Sources:
    """The merged values of files and overrides, with the origin of every key."""

    files: Sequence[str]
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)

    def where(self, key: str) -> Origin:
        """The line of the key, else of one below it, else of the section it is missing from, else the last file."""
        beginning = f"{key}."
        if key not in self.origins:
            below = next((origin for name, origin in self.origins.items() if name.startswith(beginning)), None)
            if below == COMMAND_LINE:
                return below
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
                hint = nearest.override(text) if reader is read and not os.path.exists(text) else ""
                problems.append((problem.origin, problem.sentence + hint))
                continue
            sources.values = merge(sources.values, new)
            sources.origins.update(found)
    if problems:
        raise _refuse(problems)
    sources.values = places.at_home(sources.values)
    return sources


def load(files: Sequence[str], overrides: Sequence[str] = (), base: dict[str, Any] | None = None) -> RunConfig:
    """Merges files, then overrides; later wins. What they leave open, the user's accelerate config and DeepSpeed file fill.

    Args:
        files: paths of YAML files.
        overrides: `key=value` strings, the value in YAML.
        base: values below everything else, from `RunConfig.model_dump` (of a resumed run).

    Raises:
        UserError: with one line for every problem found: file and line, key, value, what is allowed.
    """
    sources = _sources(files, overrides)
    wrong = [(sources.where(key), sentence) for key, sentence in (*_words_for_null(sources), *places.faults(sources.values))]
    filling = fill(Written(sources.values, sources.where, base or {})) if not wrong else Filling(problems=wrong)
    sources.values, filling.values = places.absolute(sources.values), places.absolute(filling.values)
    config = _validated(sources, base or {}, filling)
    if secrets := [(sources.where(key), sentence) for key, sentence in credentials.in_values(flat(config))]:
        raise _refuse(secrets)
    return config


def stored(path: str) -> RunConfig:
    """A resolved configuration read back as written: without filling and contradictions.

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
    """The validated configuration. Later ones win: a run's values, other programs', then files and overrides."""
    values = merge(merge(base, filling.values), sources.values)
    sources.origins = {key: lines.origin for key, lines in filling.filled.items()} | sources.origins
    problems = list(filling.problems)
    if sources.files and values.get("name") is None:
        values["name"] = _name_of(sources.files[0])
    for section in ("task", "data", "model", "loss", "optim", "schedule"):
        if isinstance(values.get(section), dict) and isinstance(given := values[section].get("options"), dict):
            found = list(open_values.faults(given, f"{section}.options"))
            problems += [(sources.where(key), sentence) for key, sentence in found]
            values[section] = {**values[section], "options": {} if found else open_values.typed(given)}
    given = _lookup(values, "data", "options", {})
    if _lookup(values, "task", "name") == "instance" and _lookup(values, "data", "name") == "coco" and isinstance(given, dict):
        values["data"] = {**values["data"], "options": {"masks": True, **given}}
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise _refuse(problems + [(sources.where(key), lines) for key, lines in sentences(error, values)]) from None
    # Contradictions between keys may only follow from those between programs.
    problems = problems or [(sources.where(key), sentence) for key, sentence in contradictions(config)]
    if problems:
        raise _refuse(problems)
    return config


def _words_for_null(sources: _Sources) -> list[tuple[str, str]]:
    """Pairs of key and sentence for text keys that are given a word that means none: it would name a partition or a file.

    They are null from then on, so that no other error is reported for them.
    """
    lines = []
    for name in _TEXTS:
        section, key = name.split(".")
        given = _lookup(sources.values, section, key)
        if isinstance(given, str) and given.lower() in ("none", "null", "nil", "false"):
            lines.append((name, f"{name}={given} would be taken as a name. Did you mean {name}=null?"))
            sources.values = merge(sources.values, {section: {key: None}})
    return lines


def _lookup(values: dict[str, Any], section: str, key: str, otherwise: Any = None) -> Any:
    return values[section].get(key, otherwise) if isinstance(values.get(section), dict) else otherwise


def _name_of(file: str) -> str:
    """A run's name from that of a file: invalid characters are replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", Path(file).stem).lstrip("._-")[:128] or "run"


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command line arguments to (files, overrides): `a.b=c` is an override unless a file has that name."""
    overrides = [a for a in arguments if OVERRIDE.match(a) and not os.path.exists(a)]
    return [a for a in arguments if a not in overrides], overrides


def differences(old: RunConfig, new: RunConfig, tags: Sequence[str]) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of the keys with one of the tags that differ."""
    before, after = flat(old), flat(new)
    return [(k.name, before[k.name], after[k.name]) for k in keys() if k.tag in tags and before[k.name] != after[k.name]]


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load` reads back to the same values."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=open_values.Dumper, sort_keys=False, allow_unicode=True, width=10_000)
