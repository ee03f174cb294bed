"""What other toolkits call a key or a value is answered with what it is called here, and never with something misleading."""

from pathlib import Path

import pytest

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.messages import nearest, synonyms
from phalanx.configs.messages.refusals import sentences
from phalanx.configs.schema import RunConfig, keys
from phalanx.configs.tasks import TASKS
from phalanx.data.open import DATASETS
from phalanx.launch.main import main
from phalanx.models.registry import MODELS
from phalanx.train.setup.checks import check_world
from tests.support.running import DIGITS

NAMES = {key.name for key in keys()}
WORDS = {"task.name": set(TASKS), "data.name": set(DATASETS), "model.name": set(MODELS)}

FURTHER = {
    "step": ["schedule.milestones=[0.5]"],
    "multistep": ["schedule.milestones=[0.5]"],
    "plateau": ["schedule.metric=val/loss"],
    "one_cycle": ["schedule.warmup_steps=0"],
    "dice": ["task.name=segmentation"],
    "original": ["task.name=segmentation"],
}


def test_every_synonym_means_a_key_that_there_is_and_is_none_itself() -> None:
    assert len(synonyms.KEYS) > 200
    for word, meant in synonyms.KEYS.items():
        assert set(meant) <= NAMES and word not in NAMES and word == word.lower()
    assert not set(synonyms.KEYS) & set(synonyms.ELSEWHERE)
    sections = {name.rpartition(".")[0] for name in NAMES}
    assert set(synonyms.SECTIONS.values()) <= sections and not set(synonyms.SECTIONS) & sections


def test_every_value_that_is_proposed_is_allowed() -> None:
    base = load([DIGITS]).model_dump(mode="json")
    for key, table in synonyms.VALUES.items():
        for meant in {value for values in table.values() for value in values}:
            if key in WORDS:
                assert meant in WORDS[key]
            else:
                load([], [f"{key}={meant}", *FURTHER.get(meant, ())], base)
    assert set(synonyms.ON_ANY_BACKBONE) | {*synonyms.ON_ANY_BACKBONE.values(), *synonyms.WITH_BACKBONE.values()} <= set(MODELS)
    assert all("backbone" in MODELS[name].takes for name in synonyms.ON_ANY_BACKBONE.values())
    assert not [name for name in MODELS if name.startswith(synonyms.TIMM)]


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("train.batch_size", "train.global_batch or train.micro_batch"),
        ("batch_size", "train.global_batch or train.micro_batch"),
        ("lr", "optim.lr"),
        ("optim.learning_rate", "optim.lr"),
        ("optimizer.lr", "optim.lr"),
        ("epochs", "train.epochs"),
        ("trainer.max_epochs", "train.epochs"),
        ("num_workers", "data.workers"),
        ("train.workers", "data.workers"),
        ("train.amp", "dist.precision"),
        ("train.weight_decay", "optim.weight_decay"),
        ("momentum", "optim.momentum"),
        ("scheduler", "schedule.name"),
        ("imgsz", "data.image_size"),
        ("output_dir", "runs or name"),
        ("sync_batchnorm", "dist.sync_bn"),
        ("save-steps", "checkpoint.every_steps"),
        ("slurm.gres", "slurm.gpus_per_node"),
        ("train.globl_batch", "train.global_batch"),
        ("data.nmae", "data.name"),
        ("evaluate.flipp", "evaluate.flip"),
        ("trian.steps", "train.steps"),
        ("optm.name", "optim.name"),
        ("evalute", "evaluate"),
        ("SOLVER.MAX_ITER", "train.steps"),
        ("SOLVER.IMS_PER_BATCH", "train.global_batch"),
        ("TEST.EVAL_PERIOD", "train.eval_every"),
        ("slurm.timeout", "slurm.time"),
        ("slurm.exclusive", "slurm.extra"),
        ("slurm.nodelist", "slurm.extra"),
        ("evaluate.multi_scale", "evaluate.scales"),
        ("trainer.max_time", "slurm.time"),
        ("checkpoint_config.interval", "checkpoint.every_steps"),
        ("evaluation.interval", "train.eval_every"),
        ("initial-checkpoint", "model.weights"),
        ("track.mode", "track.wandb"),
        ("auxiliary_head.loss_decode.loss_weight", "loss.auxiliary"),
    ],
)
def test_an_unknown_key_is_answered_by_synonym_then_by_spelling(unknown: str, meant: str) -> None:
    assert nearest.key(unknown) == f" Did you mean {meant}?"
    with pytest.raises(UserError, match="Did you mean "):
        load([DIGITS], [f"{unknown}=1"])


@pytest.mark.parametrize("unknown", ["zebra", "train.zebra", "optim.smell", "x.y.z", "data.augment.snow", "model.flavour"])
def test_where_nothing_was_meant_nothing_is_proposed(unknown: str) -> None:
    assert "Did you mean" not in nearest.key(unknown)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dist.precision=amp", "bf16 or fp16"),
        ("dist.precision=16-mixed", "fp16"),
        ("dist.precision=bfloat16", "bf16"),
        ("dist.precision=32", "fp32"),
        ("dist.strategy=deepspeed", "zero1, zero2 or zero3"),
        ("dist.strategy=fsdp2", "fsdp"),
        ("dist.strategy=DDP_spawn", "ddp"),
        ("optim.name=Adam", "adamw"),
        ("optim.name=SGD", "sgd"),
        ("schedule.name=CosineAnnealingLR", "cosine"),
        ("loss.name=CrossEntropyLoss", "cross_entropy"),
        ("data.fit=letterbox", "pad"),
        ("track.wandb=true", "online"),
        ("dist.device=gpu", "cuda"),
        ("train.gradient_accumulation_steps=4", "train.global_batch, train.micro_batch"),
        ("resume=true", "phalanx resume RUN"),
        ("devices=4", "--nproc"),
        ("dist.find_unused_parameters=true", "not needed"),
        ("dist.device=tpu", "on the CPU."),
        ("dist.precision=fp8", "8 bits are not available"),
        ("optim.name=lamb", "Did you mean timm/lamb?"),
        ("schedule.name=exp", "Did you mean exponential?"),
        ("data.on_error=stop", "Did you mean fail?"),
        ("data.name=MNIST", "Did you mean mnist"),
        ("data.name=VOC2007", "Did you mean voc?"),
        ("data.mean=imagenet", "[0.485, 0.456, 0.406]"),
        ("model.name=efficientnet_b0", "model.name=timm/efficientnet_b0"),
        ("model.name=mobilenet_v3_large", "model.name=timm/mobilenet_v3_large"),
        ("model.name=unet_resnet34", "model.name=unet model.backbone=resnet34"),
        ("model.name=maskrcnn_resnet101_fpn", "model.name=mask_rcnn model.backbone=resnet101"),
        ("model.name=DeepLabV3+", "deeplabv3plus"),
        ("model.name=resnet81", "resnet18"),
        ("task.name=semantic", "segmentation"),
        ("data.name=coco2017", "coco"),
        ("data.name=ImageFolder", "image_folder"),
        ("data.name=./mine.py", "./file.py:Class"),
        ("dist=ddp", "Did you mean dist.strategy=ddp?"),
        ("optim=Adam", "Did you mean optim.name=adam?"),
        ("model=resnet18", "Did you mean model.name=resnet18?"),
        ("schedule=poly", "Did you mean schedule.name=polynomial?"),
        ("slurm=gpu", "Did you mean slurm.partition=gpu?"),
        ("model=null", "Write its keys below it."),
        ("slurm.partition=none", "Did you mean slurm.partition=null?"),
        ("dist.interface=None", "Did you mean dist.interface=null?"),
        ("slurm.account='null'", "Did you mean slurm.account=null?"),
        ("data.root=None", "Did you mean data.root=null?"),
        ("model.weights=False", "Did you mean model.weights=null?"),
        ("train.clip_norm=none", "Did you mean train.clip_norm=null?"),
        ("train.ema=off", "Did you mean train.ema=null?"),
        ("checkpoint.best=none", "Did you mean checkpoint.best=null?"),
        ("model.weights=imagenet", "Did you mean model.weights=torchvision?"),
        ("model.weights=IMAGENET1K_V1", "Did you mean model.weights=torchvision/IMAGENET1K_V1?"),
        ("model.weights=https://host/w.pth", "Fetch the file"),
        ("model.weights=hf-hub:timm/resnet18", "Fetch the file"),
        ("model.name=yolov8n.pt", "model.name=yolov8n?"),
        ("model.name=DeepLabV3Plus", "model.name=deeplabv3plus?"),
        ("model.name=U-Net", "model.name=unet?"),
        ("model.name=torchvision.models.resnet18", "model.name=resnet18?"),
        ("model.name=microsoft/resnet-50", "model.name=resnet50?"),
        ("model.name=resnet18.a1_in1k", "model.name=timm/resnet18.a1_in1k, or model.name=resnet18?"),
        ("model.name=timm:resnet18d", "model.name=timm/resnet18d?"),
        ("model.name=COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml", "model.name=faster_rcnn model.backbone=resnet101?"),
        ("task.name=mine.Task", "./file.py:Class"),
    ],
)
def test_a_value_in_the_words_of_another_toolkit_is_answered(
    override: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", DIGITS, override]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and "fcn_resnet50" not in error


def test_a_fixed_backbone_and_an_unknown_one_name_the_network_that_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    detector = ["config", DIGITS, "task.name=detection", "model.name=maskrcnn_resnet50_fpn", "model.backbone=resnet18"]
    assert main(detector) == 2
    assert "Set model.name=mask_rcnn" in capsys.readouterr().err
    unet = ["config", DIGITS, "task.name=segmentation", "model.name=unet", "model.backbone=efficientnet_b0"]
    assert main(unet) == 2
    assert "model.backbone=timm/efficientnet_b0" in capsys.readouterr().err


def test_instances_of_coco_have_masks_unless_they_are_said_to_have_none(tmp_path: Path) -> None:
    coco = ["task.name=instance", "data.name=coco", "model.name=mask_rcnn"]
    assert load([DIGITS], coco).data.options == {"masks": True}
    assert load([DIGITS], [*coco, "data.options={images: x}"]).data.options == {"masks": True, "images": "x"}
    assert load([DIGITS], [*coco, "data.options.masks=false"]).data.options == {"masks": False}
    assert load([DIGITS], ["task.name=detection", *coco[1:]]).data.options == {}


def test_wrong_values_of_a_union_are_said_once() -> None:
    from pydantic import ValidationError

    values = load([DIGITS]).model_dump(mode="json") | {"seed": None}
    values["data"]["mean"], values["optim"]["betas"] = "x", [0.9]
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate(values)
    said = dict(sentences(caught.value, values))
    assert said == {
        "seed": "seed=null is not allowed; wanted: a whole number.",
        "data.mean": "data.mean=x is not allowed; wanted: a list, such as [A, B].",
        "optim.betas": "optim.betas=[0.9] is not allowed; wanted: a list of two values.",
    }


def test_numbers_without_measure_are_answered_at_once() -> None:
    """The nearest number that would do is not looked for one by one."""
    for overrides in (
        ["train.global_batch=999999937", "train.micro_batch=7"],
        ["train.global_batch=1000000000", "train.micro_batch=1", "dist.sync_bn=7"],
        ["train.global_batch=1e18", "train.micro_batch=7"],
        ["train.epochs=1e300"],
        ["optim.betas=[0.9, 5]"],
    ):
        with pytest.raises(UserError) as caught:
            load([DIGITS], overrides)
        assert len(str(caught.value)) < 500
    huge = load([DIGITS], ["train.global_batch=1000000000", "train.micro_batch=500000000"])
    with pytest.raises(UserError, match=r"set train\.micro_batch=250000000"):
        check_world(huge, 4)


@pytest.mark.parametrize(
    "argument", ["--train.steps=5", "+train.steps=5", "-train.steps=5", "train.steps", "train:steps=5", "--lr"]
)
def test_an_override_in_the_form_of_another_tool_is_answered(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", DIGITS, argument]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "Overrides are written as " in said
    assert nearest.override("--what") == nearest.override("nowhere.yaml") == nearest.override("") == ""


@pytest.mark.parametrize("key", [key.name for key in keys() if key.kind == "str or null"])
def test_none_is_said_by_null_and_not_by_empty_text(key: str) -> None:
    with pytest.raises(UserError, match=r"= is not allowed; wanted: "):
        load([DIGITS], [f"{key}=''"])
