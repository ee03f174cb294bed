"""Detection (the box and class of each object in an image) and instance segmentation (also its mask)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.configs.own_code import is_own
from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset
from phalanx.data.transforms.fit import evaluated_placement
from phalanx.dist.microbatches.randomness import key
from phalanx.models import registry
from phalanx.models.detection.inference import Inference
from phalanx.models.detection.paste import paste
from phalanx.models.detection.targets import OnHost, sent
from phalanx.train.metrics import coco_ap, voc_ap
from phalanx.train.metrics.coco_results import results, run_lengths
from phalanx.train.metrics.detection_confusion import confusion
from phalanx.train.tasks import DataInfo, Rows
from phalanx.train.tasks.classification import names
from phalanx.train.tasks.own_detector import OwnDetector, has_background

if TYPE_CHECKING:
    from PIL.Image import Image

_LEARNT = ("boxes", "labels")  # of each image
_TRUE = (*_LEARNT, "crowd", "area", "masks")
_PREFIX: dict[coco_ap.OverlapKind, str] = {"boxes": "", "masks": "mask_"}


class Detection:
    """The network's own losses; COCO's metrics of boxes, and PASCAL VOC's if requested.

    A batch has, of each image, `boxes` [n, 4] and `labels` [n]; in validation in pixels of the original image, with its
    `size`, and optionally `crowd` and `area`, as `phalanx.train.metrics.coco_ap` uses them.
    """

    kinds: tuple[coco_ap.OverlapKind, ...] = ("boxes",)

    def __init__(self, config: RunConfig, data: DataInfo):
        self._seed, self._data, self._evaluate = config.seed, config.data, config.evaluate
        self._network, self._own = config.model.name, config.model.options
        self._own_detector = OwnDetector(config.model.name) if is_own(config.model.name) else None
        if self._own_detector is not None and "masks" in self.kinds:
            raise UserError(f"model.name={config.model.name}: a detector of your own learns boxes. Set task.name=detection.")
        self._names = names(data.classes, _classes(config, data))
        asked = config.evaluate
        self._results: Callable[[int, Mapping[str, Tensor]], None] | None = None
        self._wanted = Inference(asked.score, asked.nms_iou, asked.detections, asked.one_label)

    # -- training

    def weights(self, batch: Mapping[str, Any]) -> dict[str, float]:
        if self._own_detector is not None:
            return {}
        return registry.get(self._network).known_weights(self._of_each(batch, _LEARNT), batch["image"], self._own)

    def losses(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, Any]]:
        if self._own_detector is not None:
            return self._own_detector.losses(model, list(_images(model, batch)), self._of_each(batch, _LEARNT))
        found: dict[str, tuple[Tensor, Any]] = model(_images(model, batch), self._targets(batch))
        return found

    def _targets(self, batch: Mapping[str, Any]) -> OnHost:
        """The targets of each image, its epoch, and the seed of their random sampling, from the sample and its epoch."""
        draws = list(zip(batch["epoch"].tolist(), batch["id"].tolist(), strict=True))
        of_each = zip(self._of_each(batch, self._learnt()), draws, strict=True)
        return OnHost(
            [own | {"seed": key(self._seed, "sampling", epoch, number), "epoch": epoch} for own, (epoch, number) in of_each]
        )

    def _learnt(self) -> tuple[str, ...]:
        return _LEARNT

    def _of_each(self, batch: Mapping[str, Any], entries: Sequence[str]) -> list[dict[str, Any]]:
        """The given entries of a batch per image, as far as present."""
        columns = [entry for entry in entries if entry in batch]
        rows = zip(*(batch[column] for column in columns), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    # -- evaluation

    def give_results(self, keep: Callable[[int, list[dict[str, Any]]], None], dataset: Dataset) -> None:
        categories = dataset_info.category_ids(dataset)
        self._results = lambda number, seen: keep(number, results(seen, dataset_info.image_id(dataset, number), categories))

    def measure(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor | Rows]:
        numbers, truth = batch["id"].tolist(), self._of_each(batch, _TRUE)
        rows: dict[str, list[Tensor]] = {f"{part}_{kind}": [] for kind in self.kinds for part in ("found", "true")}
        count, table = len(self._names), torch.zeros(len(self._names) + 1, len(self._names) + 1, dtype=torch.int64)
        for prediction, own, number in zip(self._detected(model, batch), truth, numbers, strict=True):
            if self._results is not None:
                self._results(number, prediction)
            for kind in self.kinds:
                rows[f"found_{kind}"].append(coco_ap.matched(prediction, own, number, kind))
                rows[f"true_{kind}"].append(coco_ap.truths(own))
            table += confusion(prediction, own, count, self._evaluate.shown)
        return {"confusion": table} | {name: Rows(torch.cat(values)) for name, values in rows.items()}

    def _detected(self, model: nn.Module, batch: Mapping[str, Any]) -> Iterator[dict[str, Tensor]]:
        """The detections in each image, best first, on the CPU: `boxes` in pixels of the original image, `scores`, `labels`."""
        if self._own_detector is not None:
            found = self._own_detector.detected(model, list(_images(model, batch)), self._wanted)
        else:
            found = model(_images(model, batch), inference=self._wanted)
        whole = _on_host([{name: one[name] for name in ("boxes", "scores", "labels")} for one in found])
        for one, seen, size in zip(found, whole, batch["size"].tolist(), strict=True):
            yield self._brought_back(seen, one.get("masks"), (size[0], size[1]))

    def _brought_back(self, found: Mapping[str, Tensor], masks: Tensor | None, size: tuple[int, int]) -> dict[str, Tensor]:
        """Maps detections from the network's input to the original image; those outside of it are dropped.

        Args:
            found: on the CPU.
            masks: of each within its box, on any device.
        """
        top, left, height, width = evaluated_placement(self._data, self._evaluate, size)
        seen = found["boxes"].double()
        factors = seen.new_tensor([size[1] / width, size[0] / height] * 2)
        whole = (seen - seen.new_tensor([left, top] * 2)) * factors
        boxes = torch.minimum(whole.clamp(min=0), whole.new_tensor([size[1], size[0]] * 2))
        there = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        own = {"boxes": boxes[there], "scores": found["scores"][there], "labels": found["labels"][there]}
        if "masks" in self.kinds and masks is not None:
            kept = masks[sent(there.nonzero().squeeze(1), masks.device)]
            (own,) = _on_host([own | {"masks": paste(kept, whole[there], size)}])
        return own

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        count, found = len(self._names), dict[str, float]()
        for kind in self.kinds:
            found |= coco_ap.summary(sums[f"found_{kind}"], sums[f"true_{kind}"], count, _PREFIX[kind])
        if self._evaluate.voc_ap:
            found |= voc_ap.summary(sums["found_boxes"], sums["true_boxes"], count)
        if self._evaluate.fitness:
            prefixes = [_PREFIX[kind] for kind in self.kinds]
            found["fitness"] = sum(0.1 * found[f"{prefix}ap50"] + 0.9 * found[f"{prefix}ap"] for prefix in prefixes)
        return found

    def details(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        tables = [
            coco_ap.per_class(sums[f"found_{kind}"], sums[f"true_{kind}"], self._names, _PREFIX[kind]) for kind in self.kinds
        ]
        return {
            "per_class": [{name: value for row in rows for name, value in row.items()} for rows in zip(*tables, strict=True)],
            "confusion": sums["confusion"].tolist(),
        }

    def pictures(self, sums: Mapping[str, Any]) -> "dict[str, Image]":
        from phalanx.train.pictures.detection_curves import pictures

        rows = {kind: (sums[f"found_{kind}"], sums[f"true_{kind}"]) for kind in self.kinds}
        return pictures(rows, sums["confusion"], self._names)

    # -- prediction

    def predict(self, model: nn.Module, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """`objects` of each image, best first: `label`, `class`, `score`, and `box`: left, top, right, bottom."""
        for found in self._detected(model, batch):
            yield {"objects": self._objects(found)} | {name: found[name] for name in ("masks",) if name in found}

    def _objects(self, found: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        return [{"label": self._names[label], "class": label, "score": score, "box": box} for label, score, box in rows]

    def draw(self, image: "Image", prediction: Mapping[str, Any]) -> "Image":
        from phalanx.train.pictures.detections import with_detections

        shown = [one for one in prediction["objects"] if one["score"] >= self._evaluate.shown]
        boxes, labels, scores = ([one[entry] for one in shown] for entry in ("box", "class", "score"))
        masks = prediction["masks"][: len(shown)] if "masks" in prediction else None
        return with_detections(image, boxes, labels, scores, self._names, masks)


class Instances(Detection):
    """Detection with a mask per object: a batch has `masks` bool [n, H, W] of each image, and masks have metrics too."""

    kinds = ("boxes", "masks")

    def losses(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, Any]]:
        if "masks" not in batch:
            raise UserError(
                f"task.name=instance learns masks, but the objects of data.name={self._data.name} have none. "
                "Set task.name=detection, or another data.name; for coco, data.options.masks=true."
            )
        return super().losses(model, batch)

    def _learnt(self) -> tuple[str, ...]:
        return *_LEARNT, "masks"

    def write(self, prediction: Mapping[str, Any], folder: Path, place: Path, probabilities: bool) -> dict[str, Any]:
        """Writes masks as the `segmentation` of each object, in COCO's run lengths."""
        if probabilities:
            raise UserError("--probabilities is for task.name=segmentation; an object has its score. Leave it out.")
        pairs = zip(prediction["objects"], run_lengths(prediction["masks"]), strict=True)
        return {"objects": [one | {"segmentation": lengths} for one, lengths in pairs]}


def _images(model: nn.Module, batch: Mapping[str, Any]) -> Tensor | list[Tensor]:
    """A batch's images on the network's device; those of several sizes were left on the CPU."""
    images: Tensor | Sequence[Tensor] = batch["image"]
    if isinstance(images, Tensor):
        return images
    like = next(model.parameters())
    return [image.to(like.device, like.dtype) for image in images]


def _on_host(found: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Results on the CPU; the device is waited for once."""
    copies = [{name: value.to("cpu", non_blocking=True) for name, value in one.items()} for one in found]
    if any(value.is_cuda for one in found for value in one.values()):
        copied = torch.cuda.Event()
        copied.record()
        copied.synchronize()
    return copies


def _classes(config: RunConfig, data: DataInfo) -> int:
    """Number of the network's object classes.

    Raises:
        UserError: if the data has more.
    """
    background = int(has_background(config))
    needed = len(data.classes) + background
    given = needed if config.model.num_classes is None else config.model.num_classes
    if given < needed:
        also = " and the background" if background else ""
        raise UserError(
            f"model.num_classes={given}, but the data has {len(data.classes)} classes{also}. Set at least {needed}."
        )
    return given - background
