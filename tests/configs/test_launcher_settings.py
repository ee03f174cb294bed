"""Settings of accelerate and DeepSpeed fill what a recipe leaves open, and are refused where they contradict it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phalanx.configs.errors import UserError
from phalanx.configs.launchers import accelerate_settings
from phalanx.configs.launchers.filling import deepspeed_gradient_accumulation, gradient_accumulation
from phalanx.configs.load import filled, load, stored, to_yaml
from phalanx.configs.schema import digest, flat
from phalanx.dist.processes import rank_status
from phalanx.dist.processes.environment import without_ranks
from phalanx.launch.main import main
from tests.support.running import DIGITS, clean_environment

NAMED = accelerate_settings.CONFIG_FILE
Write = Callable[..., str]


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs these tests may have settings of their own."""
    for name in set(os.environ) - set(without_ranks(os.environ)) | {rank_status.VARIABLE}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(NAMED, "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a config file as accelerate itself does, and makes it the user's."""

    def write(**answers: Any) -> str:
        from accelerate.commands.config.config_args import ClusterConfig

        known = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "mixed_precision": "no"}
        known |= {"use_cpu": False, "debug": False}
        path = tmp_path / "default_config.yaml"
        ClusterConfig(**(known | answers)).to_yaml_file(path)
        monkeypatch.setenv(NAMED, str(path))
        return str(path)

    return write


@pytest.fixture
def deepspeed(tmp_path: Path) -> Write:
    """Writes a DeepSpeed file; gives the override that names it."""

    def write(**settings: Any) -> str:
        path = tmp_path / "ds.json"
        path.write_text(json.dumps(settings))
        return f"dist.deepspeed={path}"

    return write


def recipe(tmp_path: Path, text: str) -> str:
    """A recipe that says no more than it must."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"data: {{name: digits}}\nmodel: {{name: resnet18}}\n{text}")
    return str(path)


def refusal(*overrides: str, files: tuple[str, ...] = (DIGITS,)) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(files, overrides)
    return str(caught.value).splitlines()


FSDP2 = {"fsdp_version": 2, "fsdp_reshard_after_forward": True, "fsdp_offload_params": False}


@pytest.mark.parametrize(
    ("answers", "meant"),
    [
        ({}, {}),
        ({"distributed_type": "MULTI_GPU", "num_processes": 8}, {}),
        ({"mixed_precision": "bf16"}, {"dist.precision": "bf16"}),
        ({"mixed_precision": "fp16"}, {"dist.precision": "fp16"}),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR", "dynamo_mode": "default"}}, {"dist.compile": True}),
        ({"distributed_type": "FSDP", "fsdp_config": FSDP2}, {"dist.strategy": "fsdp"}),
        (
            {
                "distributed_type": "FSDP",
                "fsdp_config": FSDP2 | {"fsdp_reshard_after_forward": False, "fsdp_offload_params": True},
            },
            {"dist.strategy": "fsdp", "dist.reshard_after_forward": False, "dist.offload": True},
        ),
        (
            {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 1, "fsdp_reshard_after_forward": "SHARD_GRAD_OP"}},
            {"dist.strategy": "fsdp", "dist.reshard_after_forward": False},
        ),
        (
            {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 1, "fsdp_reshard_after_forward": "HYBRID_SHARD"}},
            {"dist.strategy": "hsdp"},
        ),
        (
            {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 1, "fsdp_reshard_after_forward": "NO_SHARD"}},
            {"dist.strategy": "ddp"},
        ),
        (
            {
                "distributed_type": "FSDP",
                "fsdp_config": FSDP2,
                "parallelism_config": {"parallelism_config_dp_replicate_size": 2, "parallelism_config_dp_shard_size": 4},
            },
            {"dist.strategy": "hsdp", "dist.shard_ranks": 4},
        ),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero3_init_flag": False}}, {"dist.strategy": "zero2"}),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 0}}, {"dist.strategy": "ddp"}),
        (
            {
                "distributed_type": "DEEPSPEED",
                "deepspeed_config": {"zero_stage": 3, "offload_optimizer_device": "cpu", "gradient_clipping": 0.5},
            },
            {"dist.strategy": "zero3", "dist.offload": True, "train.clip_norm": 0.5},
        ),
    ],
)
def test_answers_to_accelerate_config_fill_open_keys(accelerate: Write, answers: dict[str, Any], meant: dict[str, Any]) -> None:
    plain = flat(load([DIGITS]))
    accelerate(**answers)
    assert {k: v for k, v in flat(load([DIGITS])).items() if v != plain[k]} == {k: v for k, v in meant.items() if v != plain[k]}
    assert {said.key: said.value for said in filled([DIGITS])} == meant


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"mixed_precision": "fp8"}, "mixed_precision=fp8 is not supported"),
        ({"distributed_type": "MEGATRON_LM"}, "distributed_type=MEGATRON_LM is not supported"),
        ({"distributed_type": "XLA"}, "distributed_type=XLA is not supported"),
        ({"dynamo_config": {"dynamo_backend": "TENSORRT"}}, "dynamo_config.dynamo_backend=TENSORRT is not supported"),
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3, "offload_param_device": "cpu"}},
            "deepspeed_config.offload_param_device=cpu is not supported",
        ),
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 4}},
            "deepspeed_config.zero_stage=4 is not a stage",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_line(accelerate: Write, answers: dict[str, Any], sentence: str) -> None:
    path = accelerate(**answers)
    (said,) = refusal()
    place, _, rest = said.partition(": ")
    written = sentence.split("=")[0].rpartition(".")[2]
    assert rest.startswith(sentence) and f"{NAMED}=" in rest
    assert place.startswith(f"{path}:") and written in Path(path).read_text().splitlines()[int(place.rpartition(":")[2]) - 1]


def test_the_file_of_accelerate_config_default_is_read_where_accelerate_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NAMED)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    assert load([DIGITS]).dist.precision == "fp32"
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "config", "default", "--mixed_precision", "bf16"]
    subprocess.run(command, env=clean_environment(HF_HOME=str(tmp_path / "hub")), check=True, capture_output=True, timeout=100)
    assert load([DIGITS]).dist.precision == "bf16"
    monkeypatch.setenv(NAMED, "")
    assert load([DIGITS]).dist.precision == "fp32"
    monkeypatch.setenv(NAMED, str(tmp_path / "nowhere.yaml"))
    assert refusal() == [f"{tmp_path}/nowhere.yaml: there is no such file. Check the path."]


_SHOW = "import json, os, sys; json.dump(dict(os.environ), open(f'{sys.argv[1]}/{os.environ.get(\"RANK\", 0)}.json', 'w'))"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "meant"),
    [
        (["--multi_gpu", "--mixed_precision", "bf16", "--dynamo_backend", "inductor"], {"precision": "bf16", "compile": True}),
        (["--use_fsdp", "--fsdp_version", "2", "--fsdp_offload_params", "true"], {"strategy": "fsdp", "offload": True}),
        (["--use_fsdp", "--fsdp_sharding_strategy", "SHARD_GRAD_OP"], {"strategy": "fsdp", "reshard_after_forward": False}),
        (["--use_deepspeed", "--zero_stage", "1", "--offload_optimizer_device", "cpu"], {"strategy": "zero1", "offload": True}),
    ],
    ids=["ddp", "fsdp2", "fsdp1", "deepspeed"],
)
def test_what_accelerate_launch_hands_its_ranks_wins_over_the_file(
    tmp_path: Path, accelerate: Write, monkeypatch: pytest.MonkeyPatch, flags: list[str], meant: dict[str, Any]
) -> None:
    script = tmp_path / "show.py"
    script.write_text(_SHOW)
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *flags, "--num_processes", "2"]
    command += ["--num_machines", "1", "--main_process_port", "0", str(script), str(tmp_path)]
    environment = clean_environment(ACCELERATE_USE_CPU="true", HF_HOME=str(tmp_path))
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=150)
    for name, value in json.loads((tmp_path / "1.json").read_text()).items():
        monkeypatch.setenv(name, value)
    accelerate(mixed_precision="fp16")
    said = {"dist." + key: value for key, value in meant.items()}
    assert {s.key: s.value for s in filled([DIGITS])} == said
    # Ranks that phalanx train starts see its own accelerate launch, and do as it did: they ask the file.
    monkeypatch.setenv(rank_status.VARIABLE, str(tmp_path))
    assert {s.key: s.value for s in filled([DIGITS])} == {"dist.precision": "fp16"}


def test_the_ranks_of_phalanx_train_are_known_by_their_mailbox() -> None:
    assert rank_status.VARIABLE == accelerate_settings.STARTED_BY_PHALANX


def test_a_deepspeed_file_fills_even_what_a_recipe_must_say(tmp_path: Path, deepspeed: Write) -> None:
    named = deepspeed(
        train_batch_size=32,
        train_micro_batch_size_per_gpu=8,
        gradient_accumulation_steps=2,
        gradient_clipping=1.0,
        zero_optimization={"stage": 2, "offload_optimizer": {"device": "cpu"}, "overlap_comm": True},
        fp16={"enabled": True, "loss_scale": 0, "initial_scale_power": 12, "loss_scale_window": 500, "hysteresis": 2},
        optimizer={"type": "AdamW", "params": {"lr": 0.001, "betas": [0.8, 0.99], "eps": 1e-7, "weight_decay": 0.1}},
        steps_per_print=100,
    )
    config = load([recipe(tmp_path, "train: {steps: 5}")], [named])
    assert (config.train.global_batch, config.train.micro_batch, config.train.clip_norm) == (32, 8, 1.0)
    assert (config.dist.strategy, config.dist.offload, config.dist.precision) == ("zero2", True, "fp16")
    assert (config.dist.loss_scale, config.dist.loss_scale_window) == (4096.0, 500)
    assert (config.optim.name, config.optim.lr, config.optim.betas) == ("adamw", 0.001, (0.8, 0.99))
    assert (config.optim.eps, config.optim.weight_decay) == (1e-7, 0.1)
    assert config.dist.deepspeed is not None and deepspeed_gradient_accumulation(config.dist.deepspeed) == 2
    assert [steps for _, steps in gradient_accumulation(config)] == [2]


def test_auto_says_nothing(deepspeed: Write) -> None:
    auto: dict[str, Any] = dict.fromkeys(
        ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_clipping", "gradient_accumulation_steps"), "auto"
    )
    auto |= {"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto", "loss_scale_window": 1000}}
    auto |= {"optimizer": "auto", "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}}
    named = deepspeed(**auto)
    assert digest(load([DIGITS], [named])) == digest(load([DIGITS]))
    assert [said.key for said in filled([DIGITS], [named])] == ["dist.strategy"]
    assert load([DIGITS], [named, "dist.precision=fp16"]).dist.loss_scale_window == 1000
    assert list(gradient_accumulation(load([DIGITS], [named]))) == []


def test_defaults_of_deepspeed_fill_where_they_are_not_ours_and_contradict_nothing(tmp_path: Path, deepspeed: Write) -> None:
    named = deepspeed(zero_optimization={"stage": 1}, optimizer={"type": "SGD", "params": {"lr": 0.1}})
    train = "train: {steps: 5, global_batch: 8, micro_batch: 4}"
    assert load([recipe(tmp_path, train)], [named]).optim.momentum == 0
    assert load([recipe(tmp_path, train)], [named, "optim.momentum=0.5"]).optim.momentum == 0.5


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"scheduler": {"type": "WarmupLR", "params": {}}}, "scheduler is not used"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}, "offload_param.device=cpu is not supported"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}}, "offload_optimizer.device=nvme"),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage=4 is not allowed; wanted: 0, 1, 2 or 3"),
        ({"zero_optimization": 3}, "zero_optimization=3 is not allowed; wanted: an object"),
        ({"optimizer": {"type": "Lamb", "params": {}}}, "optimizer.type=Lamb is not supported"),
        ({"optimizer": {"type": "SGD", "params": {"dampening": 0.1}}}, "dampening=0.1 is not available"),
        ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False, "weight_decay": 0.1}}}, "adam_w_mode=false with"),
        ({"fp16": {"enabled": True, "loss_scale": 128}}, "fp16.loss_scale=128 fixes the loss scale"),
        ({"train_batch_size": "many"}, "train_batch_size=many (train.global_batch=many) contradicts train.global_batch=64"),
    ],
)
def test_what_a_recipe_cannot_say_is_refused(deepspeed: Write, settings: dict[str, Any], sentence: str) -> None:
    named = deepspeed(**settings)
    said = refusal(named, "dist.strategy=zero2", "optim.name=adamw") if "Adam" in str(settings) else refusal(named)
    assert any(line.startswith(f"{named.partition('=')[2]}: ") and sentence in line for line in said), said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "ds.json: there is no such file. Check the path."),
        ('{\n "a": 1,\n}', "ds.json:3: this is not JSON"),
        ("[1, 2]", "ds.json: the file holds no object."),
        ('{"a": 1, "a": 2}', "ds.json: the key 'a' occurs twice."),
        ("\0", "ds.json: this is not a text file"),
    ],
)
def test_a_deepspeed_file_that_cannot_be_read(tmp_path: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / "ds.json").write_text(text)
    (said,) = refusal(f"dist.deepspeed={tmp_path}/ds.json", "dist.strategy=zero1")
    assert said.startswith(f"{tmp_path}/{sentence}")


def test_every_contradiction_is_named_with_both_values(tmp_path: Path, accelerate: Write, deepspeed: Write) -> None:
    path = accelerate(mixed_precision="fp16", distributed_type="FSDP", fsdp_config=FSDP2)
    file = deepspeed(zero_optimization={"stage": 3}, train_batch_size=32).partition("=")[2]
    text = f"train: {{steps: 5, micro_batch: 8}}\noptim: {{lr: 1}}\ndist:\n  strategy: ddp\n  deepspeed: {file}\n"
    said = refusal("train.global_batch=64", "dist.precision=bf16", files=(recipe(tmp_path, text),))
    assert len(said) == 4 and all(line.endswith("Remove one of them.") for line in said)
    assert (
        f"{path}:3: distributed_type=FSDP (dist.strategy=fsdp) contradicts dist.strategy=ddp of {tmp_path}/recipe.yaml:6."
        in said[0] + said[1]
    )
    assert "mixed_precision=fp16 (dist.precision=fp16) contradicts dist.precision=bf16 of the command line" in said[0] + said[1]
    assert f"{file}: zero_optimization.stage=3 (dist.strategy=zero3) contradicts dist.strategy=ddp" in said[2]
    assert (
        f"{file}: train_batch_size=32 (train.global_batch=32) contradicts train.global_batch=64 of the command line." in said[3]
    )


def test_programs_that_contradict_each_other_are_both_named(accelerate: Write, deepspeed: Write) -> None:
    path = accelerate(distributed_type="FSDP", fsdp_config=FSDP2)
    (said,) = refusal(deepspeed(zero_optimization={"stage": 3}))
    assert (
        "zero_optimization.stage=3 (dist.strategy=zero3) contradicts distributed_type=FSDP (dist.strategy=fsdp) of " + path
        in said
    )


def test_what_is_said_twice_alike_contradicts_nothing(accelerate: Write, deepspeed: Write) -> None:
    accelerate(mixed_precision="bf16", distributed_type="DEEPSPEED", deepspeed_config={"zero_stage": 3})
    named = deepspeed(
        zero_optimization={"stage": 3},
        bf16={"enabled": True},
        train_batch_size=64,
        optimizer={"type": "SGD", "params": {"lr": 3e-2}},
    )
    config = load([DIGITS], [named, "dist.precision=bf16", "dist.strategy=zero3"])
    assert config.dist.strategy == "zero3" and filled([DIGITS], [named, "dist.precision=bf16", "dist.strategy=zero3"]) == []


def test_a_deepspeed_file_that_accelerate_names_is_read(tmp_path: Path, accelerate: Write, deepspeed: Write) -> None:
    file = deepspeed(zero_optimization={"stage": 1}).partition("=")[2]
    accelerate(distributed_type="DEEPSPEED", deepspeed_config={"deepspeed_config_file": file, "zero3_init_flag": False})
    config = load([DIGITS])
    assert (config.dist.strategy, config.dist.deepspeed) == ("zero1", file)


def test_a_resume_keeps_the_experiment_and_may_change_the_hardware(accelerate: Write) -> None:
    base = load([DIGITS], ["dist.precision=bf16", "dist.strategy=ddp"]).model_dump(mode="json")
    accelerate(mixed_precision="bf16", distributed_type="FSDP", fsdp_config=FSDP2)
    assert load([], [], base).dist.strategy == "fsdp"
    accelerate(mixed_precision="fp16")
    with pytest.raises(UserError, match=r"mixed_precision=fp16 .* contradicts dist.precision=bf16 of the run"):
        load([], [], base)


def test_a_resume_without_zero_leaves_the_deepspeed_file_behind(deepspeed: Write) -> None:
    base = load([DIGITS], [deepspeed(zero_optimization={"stage": 2})]).model_dump(mode="json")
    assert load([], [], base).dist.strategy == "zero2"
    config = load([], ["dist.strategy=ddp"], base)
    assert (config.dist.strategy, config.dist.deepspeed) == ("ddp", None)


def test_nothing_fills_a_stored_configuration(tmp_path: Path, accelerate: Write) -> None:
    config = load([DIGITS])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    accelerate(mixed_precision="fp16")
    assert stored(str(path)) == config


def test_phalanx_config_says_what_was_filled_and_from_where(accelerate: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = accelerate(mixed_precision="bf16")
    assert main(["config", DIGITS]) == 0
    line = Path(path).read_text().splitlines().index("mixed_precision: bf16") + 1
    assert f"# dist.precision=bf16 from {path}:{line} (mixed_precision=bf16)\n" in capsys.readouterr().out
    assert main(["config", DIGITS, "--deepspeed"]) == 2
    assert "dist.strategy=ddp does not run DeepSpeed. Set one of: zero1, zero2, zero3." in capsys.readouterr().err
