"""The keys of a small YAML file, such as `data.yaml`: texts, and lists and dictionaries of texts. No torch here.

Nothing is resolved: `yes` and `1` are names of classes there, neither true nor a number. Nothing below the second level is
looked at, so that a file cannot make more of itself than it is.
"""

from pathlib import Path
from typing import Any

import yaml

from phalanx.configs.errors import UserError
from phalanx.configs.text.encodings import line_of
from phalanx.configs.text.yaml_errors import explain
from phalanx.data.files.text_file import read_text, shown


def read_keys(path: Path) -> dict[str, Any]:
    """The values of a file by their keys.

    Raises:
        UserError: where it is not YAML, naming the line, or holds no keys, or one of them twice.
    """
    text = read_text(path)
    try:
        node = yaml.compose(text, yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        number, wrong = explain(error)
        raise UserError(f"{path}: line {number or 1}: this is not YAML: {line_of(text, number)}: {wrong}.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}: line {line} has a control character, which YAML may not have. Remove it.") from None
    except RecursionError:
        raise UserError(f"{path}: this YAML is nested too deeply. Write it flatter.") from None
    except (yaml.YAMLError, ValueError):
        raise UserError(f"{path}: this is not YAML. Write it again.") from None
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}: this is YAML, but it holds no keys with values. Write it as key: value, a line each.")
    return {key: _value(path, value) for key, value in _pairs(path, node).items()}


def _pairs(path: Path, node: yaml.MappingNode) -> dict[str, yaml.Node]:
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        where = f"{path}: line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{where}: a key is not a text. Write it as key: value.")
        if key.value in found:
            raise UserError(f"{where}: the key {shown(key.value)} is there twice. Keep one of them.")
        found[key.value] = value
    return found


def _value(path: Path, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_scalar(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {key: _scalar(value) for key, value in _pairs(path, node).items()}
    return _scalar(node)


def _scalar(node: yaml.Node) -> str | list[Any]:
    """Its text; an empty list for what is none."""
    return node.value if isinstance(node, yaml.ScalarNode) else []
