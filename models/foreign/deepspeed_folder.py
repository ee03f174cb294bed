"""Weights in a folder of DeepSpeed: a universal checkpoint, or a ZeRO one of stage 1 or 2, which holds the full model."""

from pathlib import Path

from torch import Tensor

from phalanx.models.foreign import torch_file
from phalanx.models.foreign.source import BadWeights, InMemory, Source, reason

_TAGS = ("latest_universal", "latest")


class UniversalFolder:
    """`zero/NAME/fp32.pt`, a file a tensor, float32.

    From stage 3 parameters come as one row of numbers, and buffers lie in the file of rank 0 beside them.
    """

    flat, under, averages = True, "zero", ""

    def __init__(self, folder: Path):
        self._files = {path.parent.name: path for path in sorted((folder / "zero").glob("*/fp32.pt"))}
        self._buffers = _buffers(folder)
        self.shapes = {name: tuple(self.read(name).shape) for name in [*self._files, *self._buffers]}

    def read(self, name: str) -> Tensor:
        if name in self._buffers:
            return self._buffers[name]
        held = torch_file.load(self._files[name])
        tensor = held.get("param") if isinstance(held, dict) else held
        if not torch_file.are_tensors({name: tensor}):
            raise ValueError(f"{self._files[name].name} of {name} holds no tensor")
        assert isinstance(tensor, Tensor)
        return tensor

    def close(self) -> None:
        self._buffers = {}


def _buffers(folder: Path) -> dict[str, Tensor]:
    """What stage 3 keeps out of `zero/`; of the parameters, that file has no more than empty places."""
    path = folder / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    if not path.is_file():
        return {}
    held = torch_file.load(path)
    return {name: held["module"][name] for name in held["buffer_names"]}


def is_one(folder: Path) -> bool:
    return (folder / "zero").is_dir() or any(folder.glob("*mp_rank_*_model_states.pt")) or _tagged(folder) is not None


def _tagged(folder: Path) -> Path | None:
    """The newest of several checkpoints, by the file that names it."""
    for tag in _TAGS:
        if (folder / tag).is_file():
            name = (folder / tag).read_text().strip()
            if Path(name).name == name and (folder / name).is_dir():
                return folder / name
    return None


def open_folder(folder: Path) -> Source:
    """A universal checkpoint's tensors, or the full model that stages 1 and 2 save.

    Raises:
        BadWeights: under stage 3, under tensor parallelism, and where a file asks for more than tensors.
    """
    if (folder / "zero").is_dir():
        return UniversalFolder(folder)
    models = sorted(folder.glob("mp_rank_*_model_states.pt"))
    if len(models) > 1:
        raise BadWeights(f"{folder}: the model is cut into {len(models)} tensor-parallel parts. {_conversion(folder)}")
    if models:
        return _full(models[0])
    if any(folder.glob("zero_pp_rank_*_model_states.pt")):
        raise BadWeights(f"{folder}: ZeRO-3 has cut every weight into the ranks' parts. {_conversion(folder)}")
    newest = _tagged(folder)
    assert newest is not None
    return open_folder(newest)


def _full(path: Path) -> InMemory:
    try:
        return torch_file.open_file(path)
    except BadWeights:
        raise
    except Exception as error:
        raise BadWeights(f"{path}: torch's safe reader refuses it ({reason(error)}). {_conversion(path.parent)}") from None


def _conversion(folder: Path) -> str:
    return (
        f"If you trust the files, for this unpickles them, run DeepSpeed's `zero_to_fp32.py {folder.parent} weights "
        f"--tag {folder.name} --safe_serialization`, and set model.weights=weights."
    )
