"""Text of recipes and settings is read as it is meant, or refused in one sentence of ours with its line."""

import codecs
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phalanx.configs import open_values
from phalanx.configs.errors import UserError
from phalanx.configs.load import load, stored, to_yaml
from phalanx.configs.schema import RunConfig, digest, flat, keys
from phalanx.configs.text import yaml_errors
from tests.support.running import DIGITS

Write = Callable[[str | bytes], str]
SMALL = "data: {name: digits}\nmodel: {name: resnet18}\noptim: {lr: 0.1}\ntrain: {global_batch: 8, micro_batch: 4, steps: 2}\n"
# Words of parsers and of Python, which no user should see.
FOREIGN = (
    "Input should", "String should", "Value error", "List should", "expected <", "found ", "not allowed here",
    "Exceeds the limit", "set_int_max_str_digits", "Traceback", "codec can't", "recursion", "object at 0x", "Expecting",
)  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(content: str | bytes) -> str:
        path = tmp_path / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return make


def refusal(*files: str, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as caught:
        load(files, overrides)
    return shown_to_users(str(caught.value))


def shown_to_users(said: str) -> str:
    assert not [word for word in FOREIGN if word in said], said
    assert len(said) < 6000 and all(line.isprintable() for line in said.splitlines()), said
    return said


BROKEN = [
    # a line of every kind that PyYAML refuses, and a part of what is said about it
    ("seed: 1\a", 1, "control character U+0007"),
    ("seed: !!int x", 1, "does not fit its tag !!int"),
    ("seed: !!int " + "1" * 5000, 1, "18 digits"),
    ("a: !!timestamp x", 1, "tag !!timestamp is not for recipes"),
    ("a: !!binary abc", 1, "tag !!binary"),
    ("a: !!set {b, c}", 1, "tag !!set"),
    ("a: !!omap [b: c]", 1, "tag !!omap"),
    ("a: !!python/object/apply:os.system [ls]", 1, "is not for recipes"),
    ("seed: 1: 2", 1, "a second `: `"),
    ("seed: 1\n\ttrain: x", 2, "indented by a tab"),
    ("name: 'x", 1, "does not end"),
    ('name: "C:\\data"', 1, "single quotes"),
    ('name: "\\xzz"', 1, "single quotes"),
    ('name: "\\UFFFFFFFF"', 1, "an impossible character"),
    ('name: "\\ud800"', 1, "half a character"),
    ("name: *b", 1, "no anchor"),
    ("model: {freeze: [*.bias]}", 1, "as in '*.bias'"),
    ("name: %x", 1, "cannot begin with %"),
    ("name: @x", 1, "cannot begin with %, @"),
    ("seed: 1\nname\ntask: e", 2, "not `key: value`"),
    ("a:\n  - 1\n b: 2", 3, "indented unlike"),
    ("a: - b", 1, "`- ` is where no list"),
    ("? [a]\n: b", 1, "a key must be a word"),
    ("seed: 1\na: {b: c, d", 2, "bracket that opens here"),
    ("a: [1,,2]", 1, "a value is missing"),
    ("a: }", 1, "closing bracket"),
    ("a: |x\n b", 1, "several lines"),
    ("seed: 1\n---\nb: 2", 2, "a second document"),
    ("%YAML 3\n---\na: 1", 1, "reserved in YAML"),
    ("a: !<", 1, "reserved in YAML"),
    ("<<: 5", 1, "`<<` takes an alias"),
    ("a: &a [*a]", 1, "within what it repeats"),
    ("x: " + "[" * 300, 1, "more than 32"),
    ("x: " + "{a: " * 300 + "}" * 300, 1, "more than 32"),
    ("a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(60)), None, "more than 32"),
    ("seed: 1\nseed: 2", 2, "'seed' occurs twice"),
]


@pytest.mark.parametrize(("text", "line", "sentence"), BROKEN, ids=[text[:20] for text, _, _ in BROKEN])
def test_yaml_that_cannot_be_read_is_refused_with_line_text_and_remedy(
    write: Write, text: str, line: int | None, sentence: str
) -> None:
    said = refusal(DIGITS, write(text))
    assert sentence in said and yaml_errors.OTHERWISE not in said
    assert len(said.splitlines()) == 1
    assert line is None or f"mine.yaml:{line}: " in said, said


def test_aliases_that_repeat_each_other_are_refused_before_they_are_expanded(write: Write) -> None:
    rows = [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(15)]
    assert "more than 20000 values" in refusal(write("a0: &a0 [x]\n" + "\n".join(rows)))
    merged = [f"m{i + 1}: &m{i + 1} {{<<: [*m{i}, *m{i}]}}" for i in range(40)]
    assert "more than 20000 values" in refusal(write("m0: &m0 {k: 1}\n" + "\n".join(merged)))


def test_an_anchor_used_twice_and_merged_is_read_alike_each_time(write: Write) -> None:
    shared = "name: digits\n  options: &o {a: &b {k: 1}, c: &c {<<: *b, k: 2}, d: *c}\n"
    text = SMALL.replace("data: {name: digits}", f"data:\n  {shared}task:\n  options: *o".replace("task:", "\ntask:"))
    assert load([write(text)]).task.options == {"a": {"k": 1}, "c": {"k": 2}, "d": {"k": 2}}


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: text.replace("\n", "\r\n").encode(),
    ],
)
def test_text_as_windows_writes_it_is_read(write: Write, encode: Callable[[str], bytes], tmp_path: Path) -> None:
    assert load([write(encode(SMALL + "track: {project: Größe}\n"))]).track.project == "Größe"
    settings = tmp_path / "ds.json"
    settings.write_bytes(encode('{"zero_optimization": {"stage": 2},\n "train_batch_size": 8}'))
    assert load([write(SMALL)], [f"dist.deepspeed={settings}"]).dist.strategy == "zero2"


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ("seed: 1\nname: é".encode("latin-1"), "line 2 holds the byte 0xE9, which is not UTF-8"),
        ("seed: 1\nname: 大小".encode("gbk"), "line 2 holds the byte 0xB4"),
        ("seed: 1\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (codecs.BOM_UTF16_LE + b"\x00", "begins as UTF-16"),
        (b"seed: 1\nname: a\x00b", "line 2 holds a NUL byte"),
        (b"x" * (2 << 20), "larger than 1 MB"),
    ],
)
def test_bytes_that_are_no_text_are_refused_by_line_with_the_remedy(write: Write, raw: bytes, sentence: str) -> None:
    assert sentence in refusal(DIGITS, path := write(raw))
    assert sentence in refusal(DIGITS, overrides=(f"dist.deepspeed={path}",))


NASTY = [
    "", "''", "null", "x", "-1", "0", "1e999", "-.inf", ".nan", "9" * 5000, "[", "[]", "{}", "[1]", "[a, b]", "[[1]]", "{a: 1}",
    "{a: {b: []}}", "'", "'1", "!!int x", "\t", "\x07", "\udce9", "1.5", "true", "&a [*a]", "a: b: c", "'a\n\n  b'", "2/1",
    "0/0", "val/", "-5:00", "[.5, .4]", "99999999999999999999", "٣", "[null]", "{1: null}", '"\\n"', "*", "%", "@", "a" * 9000,
]  # fmt: skip


@pytest.mark.parametrize("section", [*RunConfig.model_fields])
def test_any_value_of_any_key_is_accepted_and_comes_back_or_is_refused_in_our_words(section: str, tmp_path: Path) -> None:
    """All that pydantic can say, key by key; and text that is accepted stands in config.yaml as it was."""
    base = load([DIGITS]).model_dump(mode="json")
    for key in keys():
        accepted = None
        for value in NASTY if key.name.split(".")[0] == section else ():
            try:
                accepted = load([], [f"{key.name}={value}"], base)
            except UserError as error:
                assert "another value (" not in shown_to_users(str(error))
        if accepted is not None and ("str" in key.kind or "any" in key.kind):
            assert came_back(accepted, tmp_path)


def came_back(config: RunConfig, folder: Path) -> bool:
    (folder / "config.yaml").write_text(to_yaml(config))
    again = stored(str(folder / "config.yaml"))
    return (
        flat(again) == flat(config) and json.dumps(flat(again)) == json.dumps(flat(config)) and digest(again) == digest(config)
    )


def test_every_option_that_is_accepted_comes_back_from_config_yaml_equal(tmp_path: Path, write: Write) -> None:
    random_ = random.Random(5)
    words = [
        "5", "1e5", "1.", ".5", "-0.0", "true", "no", "null", "~", "", " x ", "a: b", "#x", "- a", "<<", "=", "!x", "&a", "*",
        "2020-01-01", "0x1F", "0o7", "1_000", ".inf", "nan", "'", '"', "\\", "é", "😀", "\u2028x", "\x85", "a\nb\n", "\t",
        "1:30", "x" * 300, "a b " * 60, "1e999", "9" * 400, "True", "%", "@", "`", "|", ">", "?", "? a", "---", "...", ",",
    ]  # fmt: skip

    def value(depth: int) -> Any:
        kind = random_.randrange(8 if depth else 6)
        if kind < 3:
            return random_.choice(words)
        if kind == 3:
            return random_.choice([0, -1, 2**63, 10**200, True, False, None])
        if kind == 4:
            return random_.choice([0.1, 1e-300, 1e300, -0.0, 1e16, 5.0, random_.random()])
        if kind == 5:
            return "".join(random_.choices(" abc:-'\"#\n\t{}[],&*!|>%@\u2028é😀", k=random_.randrange(12)))
        if kind == 6:
            return [value(depth - 1) for _ in range(random_.randrange(4))]
        return {random_.choice(words) + str(i): value(depth - 1) for i in range(random_.randrange(4))}

    base = load([write(SMALL)]).model_dump(mode="json")
    for _ in range(30):
        given = {f"k{i}": value(2) for i in range(4)}
        config = load([], [], base | {"task": {"name": "classification", "options": given}})
        assert config.task.options == given
        assert came_back(config, tmp_path), given


def test_options_are_typed_by_the_core_schema_and_quotes_keep_text(write: Write) -> None:
    text = "task: {options: {a: 5, b: '5', c: 1e3, d: true, e: 'true', f: no, g: !!str 7, 8: x, null: y}}\n"
    options_ = load([write(SMALL + text)]).task.options
    assert options_ == {"a": 5, "b": "5", "c": 1000.0, "d": True, "e": "true", "f": "no", "g": "7", "8": "x", "null": "y"}
    assert type(options_["f"]) is str
    for number in ("1e999", ".inf", "-.inf", ".nan", "1" * 5000):
        assert "task.options.a: " in refusal(write(SMALL), overrides=(f"task.options.a={number}",))
    assert open_values.typed({"a": ["5"]}) == {"a": ["5"]}


def test_thousands_of_unknown_keys_are_counted_and_the_first_named(write: Write) -> None:
    said = refusal(write(SMALL + "".join(f"key_{i}: 1\n" for i in range(3000)))).splitlines()
    assert len(said) == 11 and "key_9." in said[9] and "2990 more unknown keys" in said[10]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": 1,}', "1: this is not JSON"),
        ('{\n"a" 1}', '2: this is not JSON: `"a" 1}`: a colon is missing'),
        ("{'a': 1}", "double quotes"),
        ('{"a": 1} x', "something follows"),
        ('{"a": "b\n"}', "does not end in its line"),
        ('{"a": "\\q"}', "a backslash"),
        ('{"a": 1 "b": 2}', "a comma is missing"),
        ('{"a": [', "a value is missing"),
        ('{"a": ' + "9" * 5000 + "}", "a too long number"),
        ('{"a": 1e999}', "larger than any number"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"\\ud800": 1}', "half a character"),
        ('{"\\u0007": 1}', "U+0007"),
        ('{"a": ' + "[" * 5000, "more than 32"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "more than 32"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ("[1]", "holds no object"),
        ('{"torch_autocast": {"enabled": true, "dtype": []}}', "torch_autocast.dtype=[] is not supported"),
        ('{"train_batch_size": {}}', "train.global_batch={} is not allowed"),
        ('{"optimizer": {"type": {"a": 1}}}', "is not supported"),
    ],
)
def test_json_that_cannot_be_read_is_refused_with_line_and_text(tmp_path: Path, write: Write, text: str, sentence: str) -> None:
    path = tmp_path / "ds.json"
    path.write_text(text)
    recipe = write("data: {name: digits}\nmodel: {name: resnet18}\noptim: {lr: 1}\ntrain: {micro_batch: 1, steps: 1}\n")
    assert sentence in refusal(recipe, overrides=(f"dist.deepspeed={path}", "dist.strategy=zero2"))


def test_a_pipe_or_a_device_is_refused_as_it_can_be_read_but_once(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    assert "a pipe or a device" in refusal(str(tmp_path / "pipe"))
    assert "a pipe or a device" in refusal("/dev/zero")


def test_the_types_of_all_keys_are_written_as_a_person_writes_them() -> None:
    for key in keys():
        assert not [word for word in ("typing", "Annotated", "func=", "Union", "<", "FieldInfo") if word in key.kind], key.kind
