"""Values that programs trip over: wrong types, odd numbers, odd text, depth, length."""

import copy
from typing import Any

from hypothesis import strategies as st

NUMBERS: list[Any] = [0, 1, -1, 2, 255, 256, 65536, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63), 2**64, 10**19, 10**30]
NUMBERS += [0.0, -0.0, 0.5, 1.5, -0.5, 1e-320, 1e-9, 1e9, 1e30, 1e308, float("nan"), float("inf"), float("-inf")]
WORDS = [
    "",
    " ",
    "0",
    "1",
    "-1",
    "007",
    "1.0",
    "1e3",
    "1e400",
    "0x10",
    "1_000",
    "nan",
    "inf",
    "-inf",
    ".nan",
    ".inf",
    "null",
    "~",
]
WORDS += ["true", "yes", "no", "off", "on", "None", "[]", "{}", "[1", "{a: b", "a: b", "- a", "!!int x", "&a", "*a", "<<"]
ODD_TEXT = [
    "\0",
    "a\0b",
    "\ufeff",
    "\ufeffa",
    "\u202eabc",
    "\ud800",
    "a\udc80",
    "²",
    "٣",
    "１２",
    "é",
    "日本",
    "\U0001f600",
    "e\u0301",
]
ODD_TEXT += [
    "\n",
    "a\nb",
    "a\r\nb",
    "\t",
    "\x1b[31m",
    "\x7f",
    "\x85",
    "\u2028",
    "%s%n",
    "{x}",
    "${x}",
    "$HOME",
    "`id`",
    "';--",
    "<!--",
]
PATHS = [
    "..",
    "../..",
    "/",
    "/dev/null",
    "/etc/passwd",
    "~",
    "~nobody",
    "a/../b",
    "./x.py:Class",
    "a/b",
    ".",
    "C:\\a",
    "a" * 300,
]
LONG = ["a" * 5_000, "9" * 5_000, "a." * 2_000, "[" * 3_000, "é" * 3_000]


def _nested(depth: int, mapping: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if mapping else [value]
    return value


CONTAINERS: list[Any] = [
    [],
    {},
    [[]],
    [None],
    [0],
    ["a"],
    {"": 0},
    {"a": 1},
    {"a": {}},
    [1, 2, 3, 4],
    [1.5, "a"],
    [[1, 2], [3]],
]
CONTAINERS += [list(range(500)), {str(i): i for i in range(300)}, _nested(60, True), _nested(60, False)]
DEEP: list[Any] = [_nested(150, True), _nested(150, False)]

scalars: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, False]),
    st.sampled_from(NUMBERS),
    st.sampled_from(WORDS),
    st.sampled_from(ODD_TEXT),
    st.sampled_from(PATHS),
    st.integers(-10, 10),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
)
values: st.SearchStrategy[Any] = st.one_of(
    scalars, scalars, st.sampled_from(CONTAINERS), st.lists(scalars, max_size=4), st.sampled_from(LONG + DEEP)
).map(copy.deepcopy)  # another mutation may change them
words: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(WORDS), st.sampled_from(ODD_TEXT), st.sampled_from(PATHS), st.text(max_size=8), st.sampled_from(LONG)
)
