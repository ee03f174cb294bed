"""Reads YAML into plain values, with the line of every key. Scalars stay text: the schema decides their types."""

import re
from typing import Any

import yaml

from phalanx.configs.origin import COMMAND_LINE, Origin, Problem
from phalanx.configs.text import yaml_errors
from phalanx.configs.text.encodings import brief, control, line_of, read_text

_DEEPEST = 32
_TOO_DEEP = f"more than {_DEEPEST} values lie within each other. Write it flatter."
_MOST = 20_000  # values, counting those repeated by aliases
_TAG = "tag:yaml.org,2002:"
_NULL, _MERGE = _TAG + "null", _TAG + "merge"
# Redundant tags, and the text that they allow.
_SCALARS = {
    _TAG + "str": r"(?s).*",
    _NULL: r"|~|null|Null|NULL",
    _TAG + "bool": r"(?i)true|false|yes|no|on|off",
    _TAG + "int": r"[+-]?[0-9][0-9_]*",
    _TAG + "float": r"[+-]?([0-9][0-9_]*\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
}


class Plain(str):
    """Text without quotes: it may mean a number or a boolean, if the schema leaves the type open."""


class _Loader(yaml.SafeLoader):
    """YAML whose plain scalars stay text, so that the schema decides: `off` may be a word or false.

    PyYAML follows YAML 1.1, in which `3e-4` is text and `no` and `on` are booleans. Only null is resolved.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own way of configuring a loader)
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (_NULL, _MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth >= _DEEPEST:
            raise _Fault(self.peek_event().start_mark, _TOO_DEEP)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Fault(Exception):
    """An error at a place of the text, and what to change."""

    def __init__(self, mark: yaml.Mark, sentence: str):
        self.line, self.sentence = mark.line + 1, sentence


def parse(text: str, origin: Origin) -> tuple[Any, dict[str, Origin]]:
    """The value of a YAML text, and the place of each of its keys (`{"train.steps": Origin}`).

    Raises:
        Problem: if it is not YAML, or uses features that no recipe needs.
    """
    origins: dict[str, Origin] = {}
    loader: _Loader | None = None
    line: int | None
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, origins
            _bound(node, {}, set())
            return _Values(loader, origin, origins).of(node, ""), origins
        finally:
            loader.dispose()
    except _Fault as fault:
        line, sentence = fault.line, f"{line_of(text, fault.line)}: {fault.sentence}"
    except yaml.MarkedYAMLError as error:
        line, wrong = yaml_errors.explain(error)
        sentence = f"this is not YAML: {line_of(text, line)}: {wrong}."
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # an impossible character, such as "\UFFFFFFFF"
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1 if loader is None else loader.line + 1
        sentence = f"this is not YAML: {line_of(text, line)}: it holds an impossible character. Remove it."
    raise Problem(Origin(origin.file, line if origin != COMMAND_LINE else None), sentence)


def _bound(node: yaml.Node, known: dict[int, tuple[int, int]], above: set[int]) -> tuple[int, int]:
    """Values and levels of a node, including repeats by aliases; refused before they would take time."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in above:
        raise _Fault(node.start_mark, "an alias is within what it repeats. Write the values out.")
    size, levels = 1, 1
    if isinstance(node, yaml.CollectionNode):
        above.add(id(node))
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                more, deep = _bound(part, known, above)
                size, levels = size + more, max(levels, deep + 1)
        above.remove(id(node))
    if size > _MOST:
        raise _Fault(node.start_mark, f"this makes more than {_MOST} values. Write fewer; aliases repeat them.")
    if levels > _DEEPEST:
        raise _Fault(node.start_mark, _TOO_DEEP)
    known[id(node)] = size, levels
    return size, levels


class _Values:
    """Converts nodes to values."""

    def __init__(self, loader: _Loader, origin: Origin, origins: dict[str, Origin]):
        self._loader, self._origin, self._origins = loader, origin, origins

    def of(self, node: yaml.Node, path: str) -> Any:
        """The value of a node; records the line of every key, and refuses repeated keys."""
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag != f"{_TAG}{'map' if isinstance(node, yaml.MappingNode) else 'seq'}":
            raise _Fault(node.start_mark, f"the tag {_tag(node)} is not for recipes. Remove it.")
        if isinstance(node, yaml.SequenceNode):
            return [self.of(item, path) for item in node.value]
        assert isinstance(node, yaml.MappingNode)
        return self._mapping(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        self._refuse_twice(node)
        self._loader.flatten_mapping(node)
        node.value = list({key.value: (key, value) for key, value in node.value}.values())  # an alias may repeat it
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            self._origins[path + key] = Origin(self._origin.file, key_node.start_mark.line + 1)
            result[key] = self.of(value_node, f"{path}{key}.")
        return result

    def _refuse_twice(self, node: yaml.Node) -> None:
        own: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Fault(key.start_mark, "a key must be a word, not a list or a section. Correct it.")
            if key.tag == _MERGE:
                continue
            self._scalar(key)
            if key.value in own:
                raise _Fault(key.start_mark, f"the key {brief(key.value)!r} occurs twice. Keep one of them.")
            own.add(key.value)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        allowed, text = _SCALARS.get(node.tag), node.value
        if node.tag == _MERGE and node.style is None:  # the text <<, not as a key
            return str(text)
        if allowed is None:
            raise _Fault(node.start_mark, f"the tag {_tag(node)} is not for recipes. Remove it: the schema defines the type.")
        if not re.fullmatch(allowed, text):
            raise _Fault(node.start_mark, f"{brief(text)!r} does not fit its tag {_tag(node)}. Correct one of them.")
        if (unseen := control(text)) is not None:
            raise _Fault(node.start_mark, f"{unseen[0]} is in this value. Remove it.")
        if node.tag == _NULL:
            return None
        mark = node.start_mark
        has_tag = (mark.buffer or "")[mark.pointer : mark.pointer + 1] == "!"
        return str(text) if node.style is not None or (has_tag and node.tag == _TAG + "str") else Plain(text)


def _tag(node: yaml.Node) -> str:
    return brief(str(node.tag).replace(_TAG, "!!"))


def read(path: str) -> tuple[dict[str, Any], dict[str, Origin]]:
    """The keys of a YAML file, and the place of each.

    Raises:
        Problem: if it cannot be read, or holds no keys.
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
    if (unseen := control(written)) is not None:
        raise Problem(COMMAND_LINE, f"{unseen[0]} is in the value of {brief(key)}. Remove it.")
    value = "~" if written.strip() == "~" else parse(written, COMMAND_LINE)[0]  # home: null is written as null there
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
