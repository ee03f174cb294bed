"""What each evaluation of a run leaves besides metrics, for the report: results by class, and predictions on a few samples.

`evaluations/step-NNNNNNNN.json` has the results, and the names of the pictures in `evaluations/step-NNNNNNNN/`. To lose one
costs a picture, never a run.
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from phalanx.configs.schema import RunConfig
from phalanx.data.inspect.drawing import picture
from phalanx.data.loading.loader import EvaluationLoader
from phalanx.dist.checkpoint.manifest import scalars_to_json
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.dist.microbatches.randomness import undisturbed
from phalanx.dist.storage.durable_files import write_json
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train.evaluation.worst_classes import worst_classes
from phalanx.train.tasks import Details, Illustrates, Predicts, Task

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_CLASSES = 200  # whose confusion matrix is kept
_MOST_EVALUATIONS = 24  # whose pictures are kept
_LARGEST = 360  # pixels of a side
_QUALITY = 85
_NAME = re.compile(r"step-[0-9]{8,}")


class EvaluationRecord:
    """Keeps it in the run directory; on rank 0 only.

    Args:
        loader: of the validation split.
        say: prints a line.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        loader: EvaluationLoader,
        task: Task,
        world: World,
        say: Callable[[str], None],
    ):
        self._run, self._loader, self._task, self._say = run, loader, task, say
        self._is_main, self._batch = world.ranks.is_main, config.train.micro_batch
        self._samples: list[int] = loader.spread(config.track.pictures) if isinstance(task, Predicts) else []
        self._images: dict[int, Image] = {}

    def predictions(self, engine: Engine) -> list[Any]:
        """On the samples that are drawn, of the network as it is evaluated. All ranks call together, since some strategies
        gather the weights for it. No random number and no weight is changed."""
        found: list[Any] = []
        if not self._samples:
            return found
        assert isinstance(self._task, Predicts)
        drawn, eagerly = undisturbed(engine.world.device), torch.compiler.set_stance("force_eager")
        with drawn, eagerly, engine.evaluation() as model, torch.inference_mode():
            for start in range(0, len(self._samples), self._batch):
                batch = self._loader.batch_of(self._samples[start : start + self._batch])
                found += self._task.predict(model, engine.to_device(batch))
        return found

    def write(self, step: int, sums: Mapping[str, Any], predictions: Sequence[Any], last: bool = False) -> None:
        """Writes what the evaluation after a step has left.

        Args:
            last: whether it is the run's last one, of which the task's own pictures are kept too, such as curves.
        """
        if not self._is_main:
            return
        details = self._task.details(sums) if isinstance(self._task, Details) else {}
        if (line := worst_classes(details)) is not None:
            self._say(f"step {step}: {line}")
        if len(details.get("confusion", ())) > _MOST_CLASSES:
            details = {name: value for name, value in details.items() if name != "confusion"}
        folder = self._run.evaluations / f"step-{step:08d}"
        try:
            names = self._draw(folder, predictions)
            if details or names:
                self._run.evaluations.mkdir(exist_ok=True)
                curves = self._curves(folder, sums) if last else []
                content = {"step": step, **details, "pictures": names, "curves": curves}
                write_json(folder.with_suffix(".json"), scalars_to_json(content))
            self._thin()
        except OSError as error:
            self._say(f"phalanx: {folder}: {error.strerror or error}: the report will lack this evaluation")

    def _draw(self, folder: Path, predictions: Sequence[Any]) -> list[str]:
        """Draws predictions; returns the pictures' names."""
        names = []
        for place, (sample, prediction) in enumerate(zip(self._samples, predictions, strict=False)):
            image = self._image(sample)
            if image is None:
                continue
            assert isinstance(self._task, Predicts)
            drawn = self._task.draw(image, prediction).convert("RGB")
            drawn.thumbnail((_LARGEST, _LARGEST))
            folder.mkdir(parents=True, exist_ok=True)
            names.append(f"{place}.jpg")
            drawn.save(folder / names[-1], quality=_QUALITY)
        return names

    def _curves(self, folder: Path, sums: Mapping[str, Any]) -> list[str]:
        """Draws what `phalanx evaluate` draws; returns the pictures' names."""
        drawn = self._task.pictures(sums) if isinstance(self._task, Illustrates) else {}
        for name, image in drawn.items():
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{name}.png")
        return [f"{name}.png" for name in drawn]

    def _image(self, sample: int) -> "Image | None":
        """A validation sample to draw on, in its own size; None if it has no image."""
        if sample not in self._images:
            stored = self._loader.stored(sample).get("image")
            if not isinstance(stored, torch.Tensor):
                return None
            whole = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(stored.dtype, 1.0)
            self._images[sample] = picture(stored.float() / whole)
        return self._images[sample]

    def _thin(self) -> None:
        """Of many evaluations every second one keeps its pictures; the first and the last do."""
        folders = sorted(path for path in self._run.evaluations.glob("step-*") if path.is_dir() and _NAME.fullmatch(path.name))
        if len(folders) > _MOST_EVALUATIONS:
            for folder in folders[1:-1:2]:
                shutil.rmtree(folder)
