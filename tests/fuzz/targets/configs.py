"""Recipes, as trees of values and as text; what the command line changes; settings of accelerate and DeepSpeed."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.fuzz import mutations, values
from tests.fuzz.case import Case
from tests.fuzz.law import Broken, command
from tests.fuzz.targets.target import Target

_ROOT = Path(__file__).resolve().parents[3]
DIGITS = str(_ROOT / "configs/recipes/digits_resnet18.yaml")


@cache
def _texts() -> list[str]:
    return [path.read_text() for path in sorted((_ROOT / "configs").rglob("*.yaml"))]


@cache
def _recipes() -> list[Any]:
    """Every recipe, and the one that says all keys."""
    from phalanx.configs.load import load

    return [yaml.safe_load(text) for text in _texts()] + [load([DIGITS]).model_dump(mode="json")]


@st.composite
def _trees(draw: mutations.Draw) -> Case:
    recipe = draw(st.sampled_from(_recipes()))
    return Case("recipes", {"recipe.yaml": mutations.yaml_bytes(draw, mutations.tree(draw, recipe))})


_LINES = ["a: !!int x", "seed: !!timestamp 2020-13-45", "seed: !!binary '%%%'", "seed: !!set {a, b}", "seed: !!omap [a: 1]"]
_LINES += ["a: &a [x, x]", "b: &b [*a, *a]", "train: *a", "<<: *a", "<<: {seed: 3}", "<<: [1, 2]", "&a : *a", "a: &a {b: *a}"]
_LINES += [
    "seed: !!python/object/apply:os.system [id]",
    "? [a, b]\n: 1",
    "? {a: 1}\n: 1",
    "---",
    "...",
    "%YAML 1.2",
    "%TAG ! a",
]
_LINES += ["seed: " + "9" * 5_000, "train: " + "[" * 500, "train: " + "{a: " * 500, "seed: 0x1F", "seed: 1:30", "seed: .inf"]
_LINES += [
    "x: |",
    "x: >-",
    "x: 'a",
    'x: "\\ud800"',
    'x: "\\x00"',
    "x: \x07",
    "\t- a",
    "- a",
    "seed : 1",
    "1: 2",
    "null: 3",
    "true: 1",
]
_LINES += [
    "[a, b]: 1",
    "seed: 1 # \x85",
    "seed: @a",
    "seed: `a`",
    "seed: %a",
    "seed: 'a' b",
    "name: !!str",
    "!!int seed: 1",
    "!!x y: 1",
]
_LINES += ["\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))])]
_LINES += ["\n".join(f"key{i}: 1" for i in range(2_000))]


@st.composite
def _yaml(draw: mutations.Draw) -> Case:
    text = mutations.text(draw, draw(st.sampled_from(_texts())), _LINES)
    content = mutations.encoded(draw, text)
    return Case("yaml", {"recipe.yaml": mutations.raw(draw, content, most=2) if draw(st.integers(0, 4)) == 0 else content})


@cache
def _keys() -> list[str]:
    from phalanx.configs.schema import keys

    return [key.name for key in keys()]


@st.composite
def _overrides(draw: mutations.Draw) -> Case:
    given = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(_keys()))
        if draw(st.integers(0, 4)) == 0:
            key = draw(st.one_of(st.sampled_from([key[:-1], key + ".a", "." + key, key.upper(), "a", ""]), values.words))
        value = draw(values.values)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=draw(st.booleans()))
        given.append(f"{key}={text}"[:8_000])
    return Case("overrides", {}, given)


_ACCELERATE: dict[str, Any] = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "mixed_precision": "bf16",
    "num_machines": 1,
    "num_processes": 4,
    "fsdp_config": {"fsdp_version": 2, "fsdp_reshard_after_forward": True, "fsdp_offload_params": False},
    "dynamo_config": {"dynamo_backend": "INDUCTOR"},
    "parallelism_config": {"parallelism_config_dp_replicate_size": 2, "parallelism_config_dp_shard_size": 2},
    "deepspeed_config": {
        "zero_stage": 2,
        "gradient_clipping": 1.0,
        "gradient_accumulation_steps": 2,
        "deepspeed_config_file": "ds.json",
    },
}
_DEEPSPEED: dict[str, Any] = {
    "train_batch_size": 64,
    "train_micro_batch_size_per_gpu": 8,
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": 1.0,
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 5e8},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.01}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 10, "total_num_steps": 100}},
}


@st.composite
def _launchers(draw: mutations.Draw) -> Case:
    accelerate, deepspeed = dict(_ACCELERATE), dict(_DEEPSPEED)
    accelerate["distributed_type"] = draw(st.sampled_from(["FSDP", "DEEPSPEED", "DEEPSPEED", "MULTI_GPU"]))
    if draw(st.booleans()):
        accelerate = mutations.tree(draw, accelerate)
    else:
        deepspeed = mutations.tree(draw, deepspeed)
    files = {"accelerate.yaml": mutations.yaml_bytes(draw, accelerate), "ds.json": json.dumps(deepspeed).encode()}
    name = draw(st.sampled_from(sorted(files)))
    if draw(st.integers(0, 5)) == 0:
        files[name] = mutations.raw(draw, files[name], most=2)
    return Case("launchers", dict(files), draw(st.sampled_from([[], ["dist.strategy=zero2", "dist.deepspeed=ds.json"]])))


def _load(files: list[str], overrides: list[str]) -> None:
    """Loads, and what was accepted comes back from what is written down as it was."""
    from phalanx.configs.load import load, stored, to_yaml
    from phalanx.configs.schema import digest

    config = load(files, overrides)
    Path("config.yaml").write_text(to_yaml(config), encoding="utf-8")
    try:
        again = stored("config.yaml")
    except Exception as error:
        raise Broken(f"accepted, but its config.yaml is not: {type(error).__name__}") from error
    if again != config or digest(again) != digest(config):
        raise Broken("accepted, but its config.yaml is another")


def _recipe_door(case: Case, _: Path) -> None:
    _load(["recipe.yaml"], [])
    command(["config", "recipe.yaml"])


def _overrides_door(case: Case, _: Path) -> None:
    from phalanx.configs.load import split_arguments

    files, overrides = split_arguments([DIGITS, *case.given])
    _load(files, overrides)


def _launchers_door(case: Case, _: Path) -> None:
    from phalanx.configs.load import filled

    os.environ["ACCELERATE_CONFIG_FILE"] = "accelerate.yaml"
    try:
        _load([DIGITS], case.given)
        filled([DIGITS], case.given)
    finally:
        os.environ["ACCELERATE_CONFIG_FILE"] = ""


def _prepare() -> None:
    import phalanx.configs.load
    import phalanx.launch.verbs.config  # noqa: F401


TARGETS = [
    Target(
        "recipes", "recipes as trees of values, with wrong types, keys and depth", 120, _trees, _recipe_door, prepare=_prepare
    ),
    Target("yaml", "the text of recipes: bytes, encodings, tags, anchors, aliases", 150, _yaml, _recipe_door, prepare=_prepare),
    Target("overrides", "`key=value` of the command line", 150, _overrides, _overrides_door, prepare=_prepare),
    Target("launchers", "files of `accelerate config` and DeepSpeed", 120, _launchers, _launchers_door, prepare=_prepare),
]
