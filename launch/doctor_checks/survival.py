"""The promise itself, on this machine: a small run is killed with `kill -9`, resumed, and compared to the last bit."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.launch.doctor_checks.diagnosis import Diagnosis
from phalanx.launch.exactness import ExactnessCheck

_STEPS = 4
_RECIPE = """
data: {name: shapes, image_size: 16, options: {size: 16, train: 64, val: 8}, workers: 1}
model: {name: resnet18, stem: small}
optim: {name: sgd, lr: 0.01}
train: {global_batch: 8, micro_batch: 4, steps: 4}
dist: {reduce: exact}
"""


def survival(processes: int, folder: Path) -> Iterator[Diagnosis]:
    """
    Args:
        processes: ranks of the run that is killed; the other runs have one.
        folder: where run directories lie.
    """
    there = folder.resolve()
    while not there.is_dir():
        there = there.parent
    with tempfile.TemporaryDirectory(prefix=".phalanx-doctor-", dir=there) as name:
        recipe = Path(name, "doctor.yaml")
        recipe.write_text(_RECIPE)
        try:
            found = list(ExactnessCheck([str(recipe)], list(dict.fromkeys((1, processes))), _STEPS, Path(name)).run())
        except UserError as error:
            yield Diagnosis("kill and resume", "red", str(error), "The lines say why.")
            return
    if (differs := next((one for one in found if not one.equal), None)) is not None:
        remedy = "On GPUs kernels may not be deterministic: train.deterministic=true. Otherwise please report it."
        yield Diagnosis("kill and resume", "yellow", f"{differs.label}: {differs.sentence}", remedy)
    else:
        said = f"a run was killed with kill -9 and resumed on another number of ranks: the same bits in {_STEPS} steps"
        yield Diagnosis("kill and resume", "green", said)
