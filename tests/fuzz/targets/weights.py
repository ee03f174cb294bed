"""Weights of others: safetensors, an index of several, torch's zip with a pickle in it. Nothing is unpickled."""

import io
import json
import os
import struct
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import mutations
from tests.fuzz.case import Case, Content
from tests.fuzz.law import Broken
from tests.fuzz.targets.target import Target


def _network() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))


@cache
def _safetensors() -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in _network().state_dict().items()})


class _Evil:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch unpickled",)


@cache
def _torch(how: str) -> bytes:
    import torch

    held: Any = dict(_network().state_dict())
    held = {"plain": held, "nested": {"state_dict": held, "epoch": 3}, "evil": {"model": held, "x": _Evil()}, "list": [held]}[
        how
    ]
    content = io.BytesIO()
    torch.save(held, content)
    return content.getvalue()


def _inside_zip(draw: mutations.Draw, content: bytes) -> bytes:
    """A zip, one of its members changed, its checksums right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = draw(st.sampled_from([*names, *([n for n in names if n.endswith(".pkl")] * len(names))]))
        how = draw(st.sampled_from(["bytes", "bytes", "bytes", "gone", "empty"]))
        for name in names:
            member = old.read(name)
            if name == chosen:
                if how == "gone":
                    continue
                member = b"" if how == "empty" else mutations.raw(draw, member, head=len(member))
            new.writestr(zipfile.ZipInfo(name), member)
    return out.getvalue()


_INDEX = {
    "metadata": {"total_size": 1},
    "weight_map": dict.fromkeys(("0.weight", "0.bias", "1.weight", "1.bias"), "a.safetensors"),
}


@st.composite
def _weights(draw: mutations.Draw) -> Case:
    how = draw(st.sampled_from(["header", "header", "safetensors", "torch", "zip", "zip", "index", "evil"]))
    if how in ("header", "safetensors"):
        content = _safetensors()
        if how == "header":
            length = struct.unpack("<Q", content[:8])[0]
            header = json.dumps(mutations.tree(draw, json.loads(content[8 : 8 + length]))).encode()
            content = struct.pack("<Q", len(header)) + header + content[8 + length :]
        else:
            content = mutations.raw(draw, content, head=40)
        return Case("weights", {"w.safetensors": content}, "w.safetensors")
    if how == "index":
        files: dict[str, Content] = {"a.safetensors": _safetensors()}
        files["model.safetensors.index.json"] = mutations.json_bytes(draw, _INDEX)
        return Case("weights", files, draw(st.sampled_from([".", "model.safetensors.index.json"])))
    name = draw(st.sampled_from(["w.pth", "w.pt", "w.bin", "w.safetensors", "w"]))
    content = _torch("evil" if how == "evil" else draw(st.sampled_from(["plain", "nested", "list"])))
    content = mutations.raw(draw, content, head=len(content)) if how == "torch" else content
    return Case("weights", {name: _inside_zip(draw, content) if how == "zip" else content}, name)


def _door(case: Case, _: Path) -> None:
    from phalanx.configs.errors import UserError
    from phalanx.models import weights

    try:
        weights.load(_network(), Path(case.given))
    except weights.BadWeights as error:  # as a training says it
        raise UserError(str(error)) from None
    finally:
        if Path("unpickled").exists():
            raise Broken("something was unpickled")


def _prepare() -> None:
    import phalanx.models.weights  # noqa: F401


_MEANING = "safetensors, their index, torch's zip and the pickle in it"
TARGETS = [Target("weights", _MEANING, 60, _weights, _door, prepare=_prepare)]
