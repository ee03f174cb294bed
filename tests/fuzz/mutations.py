"""Changes to inputs that are right: of trees of values, of lines of text, of bytes, of sets of files."""

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.fuzz import values
from tests.fuzz.case import FOLDER, GONE, LOOP, Content

Draw = Callable[..., Any]
Path = tuple[Any, ...]


def _paths(value: Any, at: Path = ()) -> list[Path]:
    """Every place in a tree but its root."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, below in pairs for path in [(*at, key), *_paths(below, (*at, key))]]


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


_TREE = ["replace", "replace", "replace", "scale", "delete", "swap", "rename", "wrap", "text", "add", "repeat", "empty"]


def tree(draw: Draw, given: Any, most: int = 3) -> Any:
    """A copy of a tree with some changes."""
    changed = copy.deepcopy(given)
    for _ in range(draw(st.integers(1, most))):
        places = _paths(changed)
        if not places:
            return changed
        path = places[draw(st.integers(0, len(places) - 1))]
        _change(draw, changed, path, places, draw(st.sampled_from(_TREE)))
    return changed


def _change(draw: Draw, changed: Any, path: Path, places: Sequence[Path], how: str) -> None:
    above, key = _at(changed, path[:-1]), path[-1]
    old = above[key]
    if how == "delete":
        del above[key]
    elif how == "swap":
        other = places[draw(st.integers(0, len(places) - 1))]
        above[key] = copy.deepcopy(_at(changed, other))
    elif how == "rename" and isinstance(above, dict):
        above[draw(values.words)] = above.pop(key)
    elif how == "wrap":
        above[key] = draw(st.sampled_from([[old], {"a": old}, [old, old]]))
    elif how == "text":
        above[key] = json.dumps(old)[:200] if not isinstance(old, str) else old + draw(values.words)
    elif how == "add":
        into = old if isinstance(old, dict | list) else above
        if isinstance(into, dict):
            into[draw(values.words)] = draw(values.values)
        else:
            into.append(draw(values.values))
    elif how == "repeat" and isinstance(old, list):
        above[key] = (old * 3)[:60]
    elif how == "empty":
        above[key] = type(old)() if isinstance(old, dict | list | str) else None
    elif how == "scale" and isinstance(old, int | float):
        above[key] = old * draw(st.sampled_from([-1, 0, 0.5, 10, 1000, 10**9]))
    else:
        above[key] = draw(values.values)


_TEXT = ["delete", "repeat", "swap", "indent", "insert", "insert", "word", "word", "cut", "join"]


def text(draw: Draw, given: str, inserts: Sequence[str] = (), most: int = 3) -> str:
    """A copy of a text with some of its lines changed.

    Args:
        inserts: lines that mean something in such a text.
    """
    lines = given.split("\n")
    new_lines = st.one_of(values.words, st.sampled_from(list(inserts))) if inserts else values.words
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.integers(0, len(lines) - 1))
        how = draw(st.sampled_from(_TEXT))
        if how == "delete" and len(lines) > 1:
            del lines[place]
        elif how == "repeat":
            lines.insert(place, lines[place])
        elif how == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[place], lines[other] = lines[other], lines[place]
        elif how == "indent":
            lines[place] = draw(st.sampled_from([" ", "\t", "        ", ""])) + lines[place].lstrip()
        elif how == "insert":
            lines.insert(place, draw(new_lines))
        elif how == "word":
            parts = lines[place].split(" ")
            parts[draw(st.integers(0, len(parts) - 1))] = draw(new_lines)
            lines[place] = " ".join(parts)
        elif how == "cut":
            lines[place] = lines[place][: draw(st.integers(0, max(0, len(lines[place]))))]
        elif how == "join" and place + 1 < len(lines):
            lines[place] += lines.pop(place + 1)
    return "\n".join(lines)


def encoded(draw: Draw, given: str) -> bytes:
    """Text as programs write it, mostly UTF-8."""
    how = draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "latin-1", "gbk", "crlf"]))
    if how == "crlf":
        return given.replace("\n", "\r\n").encode("utf-8", "surrogatepass")
    if how in ("latin-1", "gbk"):
        given += "\u00e9" if how == "latin-1" else "\u65e5"
    return given.encode(how, "surrogatepass" if how.startswith("utf") else "replace")


_BYTES = ["flip", "flip", "number", "number", "cut", "delete", "repeat", "zero", "insert"]
_NUMBERS = [
    n.to_bytes(4, order) for n in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000, 20_000, 100_000) for order in ("big", "little")
]
_NUMBERS += [b"\xff\xff", b"\0\0", b"\xff", b"\0", (2**63 - 1).to_bytes(8, "little"), b"\xff" * 8]


def raw(draw: Draw, given: bytes, most: int = 4, head: int = 64) -> bytes:
    """A copy of bytes with some changes, half of them in the first ones, where headers are."""
    content = bytearray(given)
    for _ in range(draw(st.integers(1, most))):
        if not content:
            break
        place = draw(st.integers(0, (min(head, len(content)) if draw(st.booleans()) else len(content)) - 1))
        how, count = draw(st.sampled_from(_BYTES)), draw(st.integers(1, 40))
        if how == "flip":
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "number":
            number = draw(st.sampled_from(_NUMBERS))
            content[place : place + len(number)] = number
        elif how == "cut":
            del content[place:]
        elif how == "delete":
            del content[place : place + count]
        elif how == "repeat":
            content[place:place] = content[place : place + count]
        elif how == "zero":
            content[place : place + count] = bytes(count)
        else:
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
    return bytes(content)


def json_bytes(draw: Draw, given: Any) -> bytes:
    """A tree, changed, as JSON; some of them as JSON with broken bytes."""
    written = json.dumps(tree(draw, given)).encode()
    how = draw(st.integers(0, 12))
    if how == 0:
        return draw(
            st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"[" + b"1," * 100_000, b"", b"\0" * 9])
        )
    return raw(draw, written, most=2) if how < 3 else written


def yaml_bytes(draw: Draw, given: Any) -> bytes:
    """A tree as YAML: in blocks, or in flow, which JSON is."""
    if draw(st.booleans()):
        try:
            return yaml.safe_dump(given, allow_unicode=draw(st.booleans()), sort_keys=False).encode()
        except (yaml.YAMLError, UnicodeEncodeError, RecursionError):
            pass  # such as a lone surrogate
    return json.dumps(given).encode()


def jsonl_bytes(draw: Draw, rows: Sequence[Any]) -> bytes:
    """Lines of JSON, some of them changed or torn."""
    changed = tree(draw, list(rows))
    content = b"".join(json.dumps(row).encode() + b"\n" for row in changed)
    how = draw(st.integers(0, 6))
    if how == 0:
        return raw(draw, content, most=2)
    if how == 1:
        return content + draw(
            st.sampled_from([b"\n", b"{", b'{"step": 1', b"\0\0\n", b"\xe9\n", b"[]\n", b"1\n", b'""\n', b"null\n"])
        )
    return content


def files(draw: Draw, given: dict[str, Content]) -> dict[str, Content]:
    """A copy of a set of files, one of them gone, empty, a folder, or under another name."""
    changed = dict(given)
    name = draw(st.sampled_from(sorted(changed)))
    how = draw(st.sampled_from([GONE, FOLDER, LOOP, "empty", "rename", "case", "suffix"]))
    old = changed.pop(name)
    folder, _, last = name.rpartition("/")
    if how in (FOLDER, LOOP):
        changed[name] = how
    elif how == "empty":
        changed[name] = b""
    elif how == "rename":
        word = draw(values.words).replace("/", "_").replace("\0", "")[:60]
        changed[f"{folder}/{word}{last[last.rfind('.') :]}".lstrip("/")] = old
    elif how == "case":
        changed[f"{folder}/{last.upper()}".lstrip("/")] = old
    elif how == "suffix":
        changed[f"{name}.txt"] = old
    return changed
