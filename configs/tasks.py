"""The tasks by name: the data and the networks of each. The only table of tasks. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

NetworkKind = Literal["backbone", "segmentation", "detection"]


@dataclass(frozen=True)
class TaskSpec:
    """
    Attributes:
        classes: `module:class` of the task, by the kind of data.
        network: the kind of network.
        example: such a network, for messages.
        masks: for detection, whether objects have masks.
    """

    classes: Mapping[str, str]
    network: NetworkKind
    example: str
    masks: bool = False


_HERE = "phalanx.train.tasks."
TASKS: dict[str, TaskSpec] = {
    "classification": TaskSpec(
        {"classification": _HERE + "classification:Classification", "multilabel": _HERE + "several_labels:SeveralLabels"},
        network="backbone",
        example="resnet50",
    ),
    "segmentation": TaskSpec({"segmentation": _HERE + "segmentation:Segmentation"}, "segmentation", "deeplabv3plus"),
    "detection": TaskSpec({"detection": _HERE + "detection:Detection"}, "detection", "faster_rcnn"),
    "regression": TaskSpec(
        dict.fromkeys(("regression", "classification", "multilabel", "segmentation"), _HERE + "regression:Regression"),
        "backbone",
        "resnet18",
    ),
    "instance": TaskSpec({"detection": _HERE + "detection:Instances"}, "detection", "mask_rcnn", masks=True),
}
DETECTION = tuple(name for name, spec in TASKS.items() if spec.network == "detection")
