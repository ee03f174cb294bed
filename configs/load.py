"""Reads YAML files and `key=value` overrides into one frozen `RunConfig`; reports everything that is wrong at once."""

import difflib
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig, contradictions, flat, keys

OVERRIDE = re.compile(r"[A-Za-z_][\w]*(\.[\w]+)*=")


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


COMMAND_LINE = Origin("command line")


class _Loader(yaml.SafeLoader):
    """YAML whose plain scalars stay text, so that the schema decides: `off` is a word here and false there.

    PyYAML follows YAML 1.1, in which `3e-4` is text and `no` and `on` are booleans. Only null is resolved.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own way of configuring a loader)
        first: [(tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Problem(Exception):
    def __init__(self, origin: Origin, sentence: str):
        self.origin, self.sentence = origin, sentence


def _plain(node: yaml.Node, origin: Origin, path: str, origins: dict[str, Origin], loader: _Loader) -> Any:
    """The value of a node; notes the line of every key on the way, and refuses a key that stands twice."""
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    own = [loader.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    for position, key in enumerate(own):
        if not isinstance(key, Hashable) or key in own[:position]:
            raise _Problem(origin, f"the key {path + str(key)!r} stands twice. Keep one of them.")
    loader.flatten_mapping(node)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        origins[path + key] = Origin(origin.file, key_node.start_mark.line + 1)
        result[key] = _plain(value_node, origins[path + key], f"{path}{key}.", origins, loader)
    return result


def _parse(text: str, origin: Origin) -> tuple[Any, dict[str, Origin]]:
    loader = _Loader(text)
    origins: dict[str, Origin] = {}
    try:
        node = loader.get_single_node()
        value = None if node is None else _plain(node, origin, "", origins, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise _Problem(Origin(origin.file, line), f"this is not YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise _Problem(origin, f"this is not YAML: {str(error).splitlines()[0]}.") from None
    finally:
        loader.dispose()
    return value, origins


def _read(path: str) -> tuple[dict[str, Any], dict[str, Origin]]:
    origin = Origin(path)
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise _Problem(origin, "there is no such file. Check the path.") from None
    except IsADirectoryError:
        raise _Problem(origin, "this is a folder. Give a YAML file.") from None
    except OSError as error:
        raise _Problem(origin, f"the file cannot be read: {error.strerror}.") from None
    try:
        text = raw.decode("utf-8")
        if "\0" in text:
            raise ValueError
    except ValueError:
        raise _Problem(origin, "this is no text file (a binary file?). Give a YAML file.") from None
    value, origins = _parse(text, origin)
    if value is None:
        raise _Problem(origin, "the file is empty. Give a YAML file with keys such as `seed: 1`.")
    if not isinstance(value, dict):
        raise _Problem(origin, "the file holds no keys. Write lines such as `seed: 1`.")
    return value, origins


def _override(text: str) -> tuple[dict[str, Any], dict[str, Origin]]:
    key, _, written = text.partition("=")
    value, _ = _parse(written, COMMAND_LINE)
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested, {key: COMMAND_LINE}


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new` over `old`, section by section."""
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


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


def _where(key: str, origins: dict[str, Origin], files: Sequence[str]) -> Origin:
    """The line of the key, else of the section it is missing from, else the last file."""
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return Origin(files[-1]) if files else COMMAND_LINE


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


def load(files: Sequence[str], overrides: Sequence[str] = (), base: dict[str, Any] | None = None) -> RunConfig:
    """Merges files, then overrides; later wins.

    Args:
        files: paths of YAML files.
        overrides: `key=value` texts, the value as YAML would have it.
        base: values below everything else, as `RunConfig.model_dump` gives them (a run that is resumed).

    Raises:
        UserError: with one line for every problem found: file and line, key, value, what is allowed.
    """
    values: dict[str, Any] = dict(base or {})
    origins: dict[str, Origin] = {}
    problems: list[tuple[Origin, str]] = []
    for read, sources in ((_read, files), (_override, overrides)):
        for source in sources:
            try:
                new, found = read(source)
            except _Problem as problem:
                problems.append((problem.origin, problem.sentence))
                continue
            values = _merge(values, new)
            origins.update(found)
    if problems:
        raise _refuse(problems)
    if files and values.get("name") is None:
        values["name"] = re.sub(r"[^A-Za-z0-9._-]", "-", Path(files[0]).stem)
    if isinstance(values.get("task"), dict) and isinstance(values["task"].get("options"), dict):
        values["task"] = {**values["task"], "options": _core_schema(values["task"]["options"])}
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            for leaf in _leaves(item["input"], key) if item["type"] == "extra_forbidden" else [key]:
                problems.append((_where(leaf, origins, files), _sentence(item, leaf)))
        raise _refuse(problems) from None
    problems = [(_where(key, origins, files), sentence) for key, sentence in contradictions(config)]
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
