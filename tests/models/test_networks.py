"""Networks by name: published sizes, and weights that are read without unpickling."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from phalanx.models import registry, weights


def _parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_resnet18_has_its_published_size_and_is_torchvision_s() -> None:
    ours, theirs = registry.get("resnet18").build(), torchvision.models.resnet18()
    assert _parameters(ours) == 11_689_512
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.eval()(image), theirs.eval()(image))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("stem", ["standard", "small"])
def test_resnet18_takes_other_channels_classes_and_small_images(channels: int, stem: str) -> None:
    model = registry.get("resnet18").build(num_classes=7, in_channels=channels, stem=stem, dropout=0.1)
    assert model(torch.randn(2, channels, 32, 32)).shape == (2, 7)
    # The names of parameters stay torchvision's.
    assert model.state_dict().keys() == torchvision.models.resnet18().state_dict().keys()


def test_an_unknown_network_lists_the_nearest() -> None:
    with pytest.raises(registry.UnknownModel, match="Did you mean resnet18"):
        registry.get("resnet-18").build()


def test_weights_come_from_safetensors_and_from_state_dicts(tmp_path: Path) -> None:
    source, target = registry.get("resnet18").build(num_classes=3), registry.get("resnet18").build(num_classes=3)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    torch.save(source.state_dict(), tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        target.fc.weight.data.zero_()  # type: ignore[union-attr, operator]
        weights.load(target, tmp_path / name)
        assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True))


class _Harm:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, (str(self.path), "w"))  # type: ignore[return-value]


def _falsify(path: Path) -> None:
    """A file of torch.save whose pickle makes a list the key of a dictionary."""
    torch.save({"a": torch.zeros(1)}, path.with_suffix(".intact"))
    with zipfile.ZipFile(path.with_suffix(".intact")) as intact, zipfile.ZipFile(path, "w") as false:
        for entry in intact.infolist():
            content = b"\x80\x02}]K\x01s." if entry.filename.endswith("/data.pkl") else intact.read(entry)
            false.writestr(entry, content)


def test_weights_that_do_not_fit_or_would_run_code_are_refused(tmp_path: Path) -> None:
    model = registry.get("resnet18").build(num_classes=3)
    state = dict(model.state_dict())
    harmed = tmp_path / "harmed"
    (tmp_path / "harm.pth").write_bytes(pickle.dumps(_Harm(harmed)))
    torch.save({"model": state, "harm": _Harm(harmed)}, tmp_path / "harm2.pth")
    _falsify(tmp_path / "false.pth")
    torch.save({"epoch": 3}, tmp_path / "more.pth")
    save_file({k: v for k, v in state.items() if k != "fc.bias"}, tmp_path / "less.safetensors")
    save_file(state | {"fc.bias": torch.zeros(4)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    sentences = {
        "nowhere.pth": "there is no such file",
        "harm.pth": "cannot be read safely",
        "harm2.pth": "cannot be read safely",
        "false.pth": r"cannot be read safely \(its content is broken\)",
        "more.pth": "more than named tensors",
        "less.safetensors": "lacks the tensor fc.bias",
        "other.safetensors": r"fc.bias is \[4\] there and \[3\]",
        "broken.safetensors": "cannot be read safely",
    }
    for name, sentence in sentences.items():
        with pytest.raises(weights.BadWeights, match=sentence):
            weights.load(model, tmp_path / name)
    assert not harmed.exists()
