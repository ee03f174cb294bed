"""The keys of a small YAML file, such as `data.yaml`: strings, and lists and dictionaries of strings. No torch here.

Nothing is resolved: `yes` and `1` are names of classes there, neither true nor a number. Nothing below the second level is
read, so that a file cannot expand.
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
        UserError: if it is not YAML, naming the line, or has no keys, or one of them twice.
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
        raise UserError(f"{path}: this is YAML, but it holds no keys with values. Write it as key: value, one per line.")
    return {key: _value(path, value) for key, value in _pairs(path, node).items()}


def _pairs(path: Path, node: yaml.MappingNode) -> dict[str, yaml.Node]:
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        where = f"{path}: line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{where}: a key is not a string. Write it as key: value.")
        if key.value in found:
            raise UserError(f"{where}: the key {shown(key.value)} occurs twice. Keep one of them.")
        found[key.value] = value
    return found


def _value(path: Path, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_scalar(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {key: _scalar(value) for key, value in _pairs(path, node).items()}
    return _scalar(node)


def _scalar(node: yaml.Node) -> str | list[Any]:
    """The text of a scalar; an empty list for anything else."""
    return node.value if isinstance(node, yaml.ScalarNode) else []
