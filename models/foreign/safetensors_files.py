"""Weights in safetensors: a file, or several with an index, as Hugging Face's libraries and accelerate write them."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from phalanx.models.foreign.source import BadWeights

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class SafetensorsFiles:
    """Tensors of one or several files, which are mapped into memory; only what is asked for is read."""

    flat, under, averages = False, "", ""

    def __init__(self, files: list[Path]):
        self._files = ExitStack()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._file_of: dict[str, safe_open] = {}
        for path in files:
            if not path.is_file():  # a pipe would be waited for
                raise ValueError(f"{path.name} is not a file")
            file = self._files.enter_context(safe_open(path, framework="pt", device="cpu"))
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if name in self._file_of:
                    raise ValueError(f"{path.name} has a second {name}")
                self._file_of[name] = file
                self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        found: Tensor = self._file_of[name].get_tensor(name)
        return found

    def close(self) -> None:
        self._files.close()


def open_index(index: Path) -> SafetensorsFiles:
    """The files that an index names, all of them beside it.

    Raises:
        BadWeights: if the index names a missing file, or a tensor that no file has.
    """
    try:
        where = dict(json.loads(index.read_text(), object_pairs_hook=_each_key_once)["weight_map"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise BadWeights(
            f"{index}: this is not an index of safetensors files: JSON with a 'weight_map', each key once. Write it again."
        ) from None
    names = sorted({str(file) for file in where.values()})
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise BadWeights(f"{index}: it names the file {name}, which is not beside it. Copy the complete folder.")
    source = SafetensorsFiles([index.parent / name for name in names])
    lost = [name for name in where if name not in source.shapes]
    if lost:
        raise BadWeights(f"{index}: no file has the tensor {lost[0]} that it names. Copy the complete folder again.")
    return source


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice, of which the last would count")
    return found
