"""Reads YAML into plain values, and notes the line of every key. Scalars stay text: the schema decides what they are."""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


COMMAND_LINE = Origin("command line")


class Problem(Exception):
    """A source that cannot be read."""

    def __init__(self, origin: Origin, sentence: str):
        self.origin, self.sentence = origin, sentence


class _Loader(yaml.SafeLoader):
    """YAML whose plain scalars stay text, so that the schema decides: `off` is a word here and false there.

    PyYAML follows YAML 1.1, in which `3e-4` is text and `no` and `on` are booleans. Only null is resolved.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own way of configuring a loader)
        first: [(tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _plain(node: yaml.Node, origin: Origin, path: str, origins: dict[str, Origin], loader: _Loader) -> Any:
    """The value of a node; notes the line of every key on the way, and refuses a key that stands twice."""
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    own = [loader.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    for position, key in enumerate(own):
        if not isinstance(key, Hashable) or key in own[:position]:
            raise Problem(origin, f"the key {path + str(key)!r} stands twice. Keep one of them.")
    loader.flatten_mapping(node)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        origins[path + key] = Origin(origin.file, key_node.start_mark.line + 1)
        result[key] = _plain(value_node, origins[path + key], f"{path}{key}.", origins, loader)
    return result


def parse(text: str, origin: Origin) -> tuple[Any, dict[str, Origin]]:
    """The value of a YAML text, and where each of its keys stands (`{"train.steps": Origin}`).

    Raises:
        Problem: where it is not YAML.
    """
    loader = _Loader(text)
    origins: dict[str, Origin] = {}
    try:
        node = loader.get_single_node()
        value = None if node is None else _plain(node, origin, "", origins, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise Problem(Origin(origin.file, line), f"this is not YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise Problem(origin, f"this is not YAML: {str(error).splitlines()[0]}.") from None
    finally:
        loader.dispose()
    return value, origins


def read_text(path: str, wanted: str = "YAML") -> str:
    """The text of a file.

    Args:
        wanted: what the file should hold, for the message.

    Raises:
        Problem: where there is none, or it is no text.
    """
    origin = Origin(path)
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise Problem(origin, "there is no such file. Check the path.") from None
    except IsADirectoryError:
        raise Problem(origin, f"this is a folder. Give a {wanted} file.") from None
    except OSError as error:
        raise Problem(origin, f"the file cannot be read: {error.strerror}.") from None
    try:
        text = raw.decode("utf-8")
        if "\0" in text:
            raise ValueError
    except ValueError:
        raise Problem(origin, f"this is no text file (a binary file?). Give a {wanted} file.") from None
    return text


def read(path: str) -> tuple[dict[str, Any], dict[str, Origin]]:
    """The keys of a YAML file, and where each of them stands.

    Raises:
        Problem: where it cannot be read, or holds no keys.
    """
    value, origins = parse(read_text(path), Origin(path))
    if value is None:
        raise Problem(Origin(path), "the file is empty. Give a YAML file with keys such as `seed: 1`.")
    if not isinstance(value, dict):
        raise Problem(Origin(path), "the file holds no keys. Write lines such as `seed: 1`.")
    return value, origins


def override(text: str) -> tuple[dict[str, Any], dict[str, Origin]]:
    """The same for a `key=value` of the command line."""
    key, _, written = text.partition("=")
    value, _ = parse(written, COMMAND_LINE)
    return nested(key, value), {key: COMMAND_LINE}


def nested(key: str, value: Any) -> dict[str, Any]:
    """`{"train": {"steps": 5}}` of `train.steps` and 5."""
    for part in reversed(key.split(".")):
        value = {part: value}
    result: dict[str, Any] = value
    return result


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new` over `old`, section by section."""
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged
