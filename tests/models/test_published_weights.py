"""Weights that libraries publish: where they are looked for, how channels and sizes are made to fit, what is refused."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from phalanx.models import fitting, pretrained, registry, weights
from phalanx.models.options import BadOption
from phalanx.models.weights import BadWeights

RESNET18 = "resnet18-f37072fd.pth"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder of files of weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def resnet18() -> dict[str, Tensor]:
    """A state dict as torchvision's file has it: 1000 classes, no counters of batches."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def test_a_file_in_torch_hub_s_folder_is_taken_as_it_is(cache: Path, resnet18: dict[str, Tensor]) -> None:
    torch.save(resnet18, cache / RESNET18)
    for given in ("torchvision", "torchvision/IMAGENET1K_V1"):
        assert pretrained.file("resnet18", given) == cache / RESNET18
    model = registry.get("resnet18").build()
    loaded = weights.load(model, pretrained.file("resnet18", "torchvision"))
    assert loaded.tensors == len(resnet18) and loaded.zeroed == 20
    found = model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in resnet18.items())


def test_what_is_fetched_must_have_the_hash_of_its_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet18: dict[str, Tensor]
) -> None:
    published = tmp_path / "published"
    published.mkdir()
    torch.save(resnet18, published / "whole.pth")
    digest = hashlib.sha256((published / "whole.pth").read_bytes()).hexdigest()[:8]
    version = torchvision.models.get_model_weights("resnet18").IMAGENET1K_V1
    for name, whole in ((f"resnet18-{digest}.pth", True), ("resnet18-00000000.pth", False)):
        (published / name).write_bytes((published / "whole.pth").read_bytes())
        monkeypatch.setattr(version.value, "url", (published / name).as_uri())
        if whole:
            assert pretrained.file("resnet18", "torchvision").read_bytes() == (published / name).read_bytes()
        else:
            with pytest.raises(BadWeights, match="invalid hash value"):
                pretrained.file("resnet18", "torchvision")
            assert not (cache / name).exists()


def test_without_a_network_the_address_and_the_place_of_the_file_are_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = torchvision.models.get_model_weights("resnet18").IMAGENET1K_V1
    monkeypatch.setattr(version.value, "url", f"http://127.0.0.1:1/{RESNET18}")  # nobody listens
    with pytest.raises(BadWeights) as caught:
        pretrained.file("resnet18", "torchvision")
    sentence = str(caught.value)
    assert f"http://127.0.0.1:1/{RESNET18}" in sentence and str(cache / RESNET18) in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("resnet18", "torchvision/IMAGENET1K_V2", "There are: IMAGENET1K_V1"),
        ("resnet18", "timm", "Set model.weights=torchvision"),
        ("timm/resnet18", "torchvision", "Set model.weights=timm"),
    ],
)
def test_weights_that_nobody_publishes_are_refused(name: str, given: str, sentence: str) -> None:
    with pytest.raises(BadOption, match=sentence):
        registry.get(name).weights_version(given)


HEADS = {
    "resnet18": ["fc.*"],
    "googlenet": ["aux1.fc2.*", "aux2.fc2.*", "fc.*"],
    "swin_t": ["head.*"],
    "convnext_tiny": ["classifier.2.*"],
    "vit_b_32": ["heads.head.*"],
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_other_classes_is_refused_with_the_pattern_that_starts_it_fresh(name: str, tmp_path: Path) -> None:
    def network(classes: int) -> nn.Module:
        with torch.device("meta"):
            made = registry.get(name).build(num_classes=classes)
        return made.to_empty(device="cpu")

    source, target = network(4).state_dict(), network(3)
    for tensor in source.values():
        tensor.fill_(1)
    torch.save(source, tmp_path / "w.pth")
    with pytest.raises(BadWeights) as caught:
        weights.load(target, tmp_path / "w.pth")
    assert f"model.fresh=[{','.join(HEADS[name])}]" in str(caught.value)
    loaded = weights.load(target, tmp_path / "w.pth", fresh=HEADS[name])
    assert loaded.fresh == 2 * len(HEADS[name]) and loaded.tensors == len(source) - loaded.fresh
    for key, tensor in target.state_dict().items():
        fresh = any(key.startswith(pattern.removesuffix("*")) for pattern in HEADS[name])
        assert fresh or bool((tensor == 1).all()), key


def test_a_file_without_the_head_does_where_it_starts_fresh(resnet18: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({name: tensor for name, tensor in resnet18.items() if not name.startswith("fc")}, tmp_path / "w.pth")
    model = registry.get("resnet18").build(num_classes=3)
    before = model.fc.weight.clone()  # type: ignore[union-attr, operator]
    with pytest.raises(BadWeights, match="lacks the tensor"):
        weights.load(model, tmp_path / "w.pth")
    weights.load(model, tmp_path / "w.pth", fresh=["fc.*"])
    assert torch.equal(model.fc.weight, before)  # type: ignore[union-attr, arg-type]
    with pytest.raises(BadWeights, match=r"model.fresh=head.\*: no tensor.*for example"):
        weights.load(model, tmp_path / "w.pth", fresh=["head.*"])


def test_grey_images_get_what_equal_channels_got(resnet18: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(resnet18, tmp_path / "w.pth")
    colour, grey = registry.get("resnet18").build(), registry.get("resnet18").build(in_channels=1)
    weights.load(colour, tmp_path / "w.pth")
    assert "conv1.weight has its three input channels summed" in str(weights.load(grey, tmp_path / "w.pth"))
    image = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        expected, found = colour.eval()(image.expand(-1, 3, -1, -1)), grey.eval()(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_more_channels_repeat_the_three_and_keep_their_scale() -> None:
    weight = torch.randn(8, 3, 7, 7)
    four = fitting.for_channels(weight, 4)
    assert torch.equal(four[:, 3], weight[:, 0] * 0.75) and torch.equal(four[:, :3], weight * 0.75)
    torch.testing.assert_close(fitting.for_channels(weight, 6).sum(1), weight.sum(1))


def test_a_vision_transformer_takes_the_weights_of_another_size_under_their_old_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.vit_b_32(image_size=96, num_classes=3)
    old = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): t for name, t in theirs.state_dict().items()
    }
    assert old.keys() != theirs.state_dict().keys()
    torch.save(old, tmp_path / "w.pth")
    same, other = (registry.get("vit_b_32").build(num_classes=3, image_size=size) for size in (96, (64, 160)))
    assert weights.load(same, tmp_path / "w.pth").fitted == ()
    assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in same.state_dict().items())
    said = str(weights.load(other, tmp_path / "w.pth"))
    assert "encoder.pos_embedding is interpolated from 3 x 3 to 2 x 5 patches" in said
    assert other(torch.randn(1, 3, 64, 160)).shape == (1, 3)


def test_statistics_of_grey_images_are_the_means_over_the_channels() -> None:
    mean, deviation = registry.get("resnet50").statistics("torchvision", channels=1) or ((), ())
    assert mean == pytest.approx([0.449]) and deviation == pytest.approx([0.226])
    assert registry.get("resnet50").statistics("torchvision", channels=4) is None


def test_swin_loads_as_its_authors_published_it(tmp_path: Path) -> None:
    """Their names, over the network as timm has it, which moved each halving to the next stage."""
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=10).eval()
    state: dict[str, Tensor] = {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}
    for name, tensor in theirs.state_dict().items():
        before = re.sub(r"^layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name)
        state[before.replace("head.fc.", "head.")] = tensor
    for stage, blocks in enumerate((2, 2, 6, 2)):
        for block in range(blocks):
            state[f"layers.{stage}.blocks.{block}.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    torch.save({"model": state}, tmp_path / "swin.pth")
    ours = registry.get("swin_t").build(num_classes=10).eval()
    loaded = weights.load(ours, tmp_path / "swin.pth")
    assert loaded.rest == ("layers.0.blocks.1.attn_mask",)
    image = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.allclose(ours(image), theirs(image), atol=1e-4)


def test_the_deep_stem_loads_under_openmmlab_s_names(tmp_path: Path) -> None:
    built = [registry.get("resnet18").build(stem="resnet_c") for _ in range(2)]
    state = built[0].state_dict()
    renamed = {re.sub(r"^conv1\.", "stem.", re.sub(r"^bn1\.", "stem.7.", name)): tensor for name, tensor in state.items()}
    assert "stem.6.weight" in renamed and "stem.7.running_var" in renamed
    torch.save({"state_dict": renamed}, tmp_path / "resnet18_v1c.pth")
    weights.load(built[1], tmp_path / "resnet18_v1c.pth")
    assert all(torch.equal(tensor, state[name]) for name, tensor in built[1].state_dict().items())
