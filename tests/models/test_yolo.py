"""The YOLO networks: their published sizes, and every assignment and loss against one written out object by object."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from phalanx.models import registry
from phalanx.models.detection.inference import Inference
from phalanx.models.detection.yolo import anchor_free
from phalanx.models.detection.yolo import boxes as on_boxes
from phalanx.models.detection.yolo.anchors import AnchorYolo, known_weights
from phalanx.models.detection.yolo.assignment import Assigned
from phalanx.models.detection.yolo.detector import Objects, Yolo, _detections
from phalanx.models.detection.yolo.detector import objects as objects_of
from phalanx.models.detection.yolo.distributions import _distribution_loss
from phalanx.models.detection.yolo.layers import SPPF
from phalanx.models.detection.yolo.networks import network as build
from phalanx.models.detection.yolo.shape_matching import ANCHORS, matched
from phalanx.models.detection.yolo.sim_ota import assigned
from phalanx.models.detection.yolo.task_aligned import aligned
from phalanx.models.options import BadOption

# Of 80 classes; v3, X: the papers' code, v5, v8: as their authors publish them.
PUBLISHED = {
    "yolov3": 61_949_149,
    "yolov5n": 1_872_157,
    "yolov5s": 7_235_389,
    "yolox_s": 8_968_255,
    "yolov8n": 3_157_200,
    "yolov8s": 11_166_560,
    "yolov8m": 25_902_640,
}
DEPTHWISE = "yolox_nano"
SMALL = ["yolov3", "yolov5n", "yolox_tiny", "yolov8n"]


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_a_yolo_has_its_published_size(name: str, count: int) -> None:
    with torch.device("meta"):
        network = build(name, 80)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_the_depthwise_yolox_has_the_paper_s_millions() -> None:
    """0.91 million: Ge et al., arXiv:2107.08430, table 5."""
    with torch.device("meta"):
        network = build(DEPTHWISE, 80)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 2) == 0.91


def _built(name: str, classes: int = 3) -> Yolo:
    torch.manual_seed(0)
    return build(name, classes, width=0.125 if name == "yolov3" else 1.0)


def _boxes(count: int, side: float = 96.0) -> Tensor:
    corners = torch.rand(count, 2, dtype=torch.float64) * side * 0.7
    sides = 4 + torch.rand(count, 2, dtype=torch.float64) * side * 0.3
    return torch.cat([corners, corners + sides], dim=1)


def _targets(counts: Sequence[int], classes: int = 3) -> list[dict[str, Tensor]]:
    return [{"boxes": _boxes(count).float(), "labels": torch.randint(0, classes, (count,))} for count in counts]


# -- boxes, one by one


def _plain_iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def _plain_complete_iou(one: Sequence[float], other: Sequence[float], weight: float | None = None) -> float:
    overlap = _plain_iou(one, other)
    diagonal = (max(one[2], other[2]) - min(one[0], other[0])) ** 2 + (max(one[3], other[3]) - min(one[1], other[1])) ** 2
    apart = ((one[0] + one[2] - other[0] - other[2]) / 2) ** 2 + ((one[1] + one[3] - other[1] - other[3]) / 2) ** 2
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (one, other)]
    aspects = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
    weight = aspects / (1 - overlap + aspects) if weight is None else weight
    return overlap - apart / diagonal - weight * aspects


def test_overlaps_are_those_of_single_boxes() -> None:
    torch.manual_seed(1)
    one, other = _boxes(40), _boxes(40)
    for function, plain in ((on_boxes.iou, _plain_iou), (on_boxes.complete_iou, _plain_complete_iou)):
        wanted = [plain(a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
        assert torch.allclose(function(one, other), torch.tensor(wanted, dtype=torch.float64), atol=1e-6)


def test_overlap_and_distribution_loss_have_their_gradients() -> None:
    torch.manual_seed(2)
    one, other = _boxes(6).requires_grad_(), _boxes(6)
    assert torch.autograd.gradcheck(lambda boxes: on_boxes.iou(boxes, other), one)
    bins = torch.randn(5, 4, 16, dtype=torch.float64, requires_grad=True)
    distances = torch.rand(5, 4, dtype=torch.float64) * 17
    assert torch.autograd.gradcheck(lambda logits: _distribution_loss(logits, distances), bins)


def test_the_weight_of_the_aspects_is_held_in_the_gradient_of_the_complete_overlap() -> None:
    torch.manual_seed(2)
    one, other, step = _boxes(6).requires_grad_(), _boxes(6), 1e-5
    on_boxes.complete_iou(one, other).sum().backward()  # type: ignore[no-untyped-call]
    assert one.grad is not None
    for row, theirs, gradient in zip(one.tolist(), other.tolist(), one.grad.tolist(), strict=True):
        overlap = _plain_iou(row, theirs)
        angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (row, theirs)]
        aspects = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
        weight = aspects / (1 - overlap + aspects)
        for place in range(4):
            higher, lower = ([*row[:place], row[place] + sign * step, *row[place + 1 :]] for sign in (1, -1))
            change = _plain_complete_iou(higher, theirs, weight) - _plain_complete_iou(lower, theirs, weight)
            assert gradient[place] == pytest.approx(change / (2 * step), abs=1e-6)


def test_the_distribution_loss_is_the_cross_entropy_to_the_two_bins_beside_the_distance() -> None:
    torch.manual_seed(3)
    bins, distances = torch.randn(3, 4, 16, dtype=torch.float64), torch.tensor([[0.0, 0.25, 14.5, 99.0]] * 3)
    for row, of_row in zip(bins, _distribution_loss(bins, distances.double()), strict=True):
        for logits, distance, loss in zip(row, [0.0, 0.25, 14.5, 14.99], of_row, strict=True):
            logarithms = [float(value) for value in logits.log_softmax(0)]
            low = int(distance)
            wanted = -(low + 1 - distance) * logarithms[low] - (distance - low) * logarithms[low + 1]
            assert float(loss) == pytest.approx(wanted, abs=1e-9)


# -- assignments, object by object


@pytest.mark.parametrize("place", [0, 1, 2])
def test_objects_meet_anchors_of_their_shape_in_their_cell_and_the_two_nearest(place: int) -> None:
    torch.manual_seed(4)
    stride, size = (8, 16, 32)[place], (96 // (8, 16, 32)[place],) * 2
    boxes, images = _boxes(30), torch.arange(30) % 4
    wanted = set()
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        for anchor, (width, height) in enumerate(ANCHORS[place]):
            ratios = [(right - left) / width, (bottom - top) / height]
            if max(max(ratio, 1 / ratio) for ratio in ratios) >= 4:
                continue
            x, y = (left + right) / 2 / stride, (top + bottom) / 2 / stride
            cells = {(int(x), int(y))}
            cells.add((int(x) + (1 if x % 1 > 0.5 else -1), int(y)))
            cells.add((int(x), int(y) + (1 if y % 1 > 0.5 else -1)))
            for column, row in cells:
                if 0 <= column < size[1] and 0 <= row < size[0]:
                    wanted.add((int(images[number]), anchor, row, column, number))
    found = matched(boxes, images, ANCHORS[place], size, stride)
    rows = list(zip(*(part.tolist() for part in found), strict=True))
    assert wanted and len(rows) == len(set(rows)) and set(rows) == wanted


def _cells(side: int = 96) -> tuple[Tensor, Tensor]:
    sizes = [(side // stride, side // stride) for stride in (8, 16, 32)]
    return on_boxes.places(sizes, (8, 16, 32), torch.zeros((), dtype=torch.float64))


def _alone(truth: Tensor, labels: Tensor) -> Objects:
    """The objects of a batch of one image."""
    return objects_of([{"boxes": truth, "labels": labels}], truth)


def _rows(found: Assigned, values: Tensor, image: int = 0) -> list[tuple[int, int, float]]:
    """Cell, object and value of each cell of an image that learns."""
    columns = (each[image][found.there[image]].tolist() for each in (found.cells, found.objects, values))
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_objects_take_the_cheapest_cells_as_many_as_fit_them(seed: int) -> None:
    torch.manual_seed(seed)
    (centres, strides), truth, labels = _cells(), _boxes(5), torch.randint(0, 3, (5,))
    cells = len(centres)
    predicted = torch.cat([centres - torch.rand(cells, 2) * 20, centres + torch.rand(cells, 2) * 20], dim=1)
    objects, classes = torch.randn(cells, dtype=torch.float64), torch.randn(cells, 3, dtype=torch.float64)
    candidates: list[int] = []
    both: dict[tuple[int, int], bool] = {}
    for cell in range(cells):
        x, y = centres[cell].tolist()
        near = False
        for number, (left, top, right, bottom) in enumerate(truth.tolist()):
            within = left < x < right and top < y < bottom
            reach = 2.5 * float(strides[cell])
            around = abs(x - (left + right) / 2) < reach and abs(y - (top + bottom) / 2) < reach
            both[number, cell] = within and around
            near = near or within or around
        if near:
            candidates.append(cell)
    costs: dict[int, dict[int, float]] = {}
    taken: dict[int, list[int]] = {}
    for number in range(5):
        costs[number] = {}
        overlaps = []
        for cell in candidates:
            overlap = _plain_iou(truth[number].tolist(), predicted[cell].tolist())
            overlaps.append(overlap)
            cost = -3 * math.log(overlap + 1e-8) + (0.0 if both[number, cell] else 1e5)
            for label in range(3):
                probability = math.sqrt(float(classes[cell, label].sigmoid()) * float(objects[cell].sigmoid()))
                cost -= math.log(probability if label == labels[number] else 1 - probability)
            costs[number][cell] = cost
        count = max(1, int(sum(sorted(overlaps, reverse=True)[:10])))
        for cell in sorted(candidates, key=lambda cell: costs[number][cell])[:count]:
            taken.setdefault(cell, []).append(number)
    wanted = {
        cell: numbers[0] if len(numbers) == 1 else min(range(5), key=lambda number: costs[number][cell])
        for cell, numbers in taken.items()
    }
    found, overlaps_found = assigned(centres, strides, predicted[None], objects[None], classes[None], _alone(truth, labels))
    rows = _rows(found, overlaps_found)
    assert {cell: number for cell, number, _ in rows} == wanted and len(rows) == len(wanted)
    for cell, number, value in rows:
        assert value == pytest.approx(_plain_iou(truth[number].tolist(), predicted[cell].tolist()), abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_the_cells_that_see_an_object_best_learn_it(seed: int) -> None:
    torch.manual_seed(seed)
    (centres, _), truth, labels = _cells(), _boxes(5), torch.randint(0, 3, (5,))
    cells = len(centres)
    predicted = torch.cat([centres - 4 - torch.rand(cells, 2) * 16, centres + 4 + torch.rand(cells, 2) * 16], dim=1)
    scores = torch.rand(cells, 3, dtype=torch.float64)
    overlaps: dict[tuple[int, int], float] = {}
    alignment: dict[tuple[int, int], float] = {}
    taken: dict[int, list[int]] = {}
    for number, (left, top, right, bottom) in enumerate(truth.tolist()):
        within = [cell for cell, (x, y) in enumerate(centres.tolist()) if left < x < right and top < y < bottom]
        for cell in range(cells):
            overlap = max(0.0, _plain_complete_iou(predicted[cell].tolist(), truth[number].tolist())) if cell in within else 0.0
            overlaps[number, cell] = overlap
            alignment[number, cell] = math.sqrt(float(scores[cell, labels[number]])) * overlap**6
        for cell in sorted(range(cells), key=lambda cell: -alignment[number, cell])[:10]:
            if cell in within:
                taken.setdefault(cell, []).append(number)
    wanted = {
        cell: numbers[0] if len(numbers) == 1 else max(range(5), key=lambda number: overlaps[number, cell])
        for cell, numbers in taken.items()
    }
    found = _rows(*aligned(centres, predicted[None], scores[None], _alone(truth, labels)))
    rows = {cell: number for cell, number, _ in found}
    # Where fewer than ten cells overlap an object, which of the others are taken is left open: they weigh nothing.
    counted = {cell: number for cell, number in wanted.items() if alignment[number, cell] > 0}
    assert counted and counted.items() <= rows.items()
    for cell, number, score in found:
        own = [other for other, of in rows.items() if of == number]
        best = max(alignment[number, other] for other in own)
        share = alignment[number, cell] * max(overlaps[number, other] for other in own) / (best + 1e-9)
        assert score == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_an_image_is_assigned_as_if_it_were_alone_whatever_the_others_have(seed: int) -> None:
    torch.manual_seed(seed)
    centres, strides = _cells()
    cells, counts = len(centres), (2, 0, 7, 1)
    predicted = torch.cat([centres - 4 - torch.rand(4, cells, 2) * 16, centres + 4 + torch.rand(4, cells, 2) * 16], dim=-1)
    sure, classes = torch.randn(4, cells, dtype=torch.float64), torch.randn(4, cells, 3, dtype=torch.float64)
    targets = [{"boxes": _boxes(count), "labels": torch.randint(0, 3, (count,))} for count in counts]

    def assign(first: int, last: int) -> list[tuple[Assigned, Tensor]]:
        own, there = slice(first, last), objects_of(targets[first:last], predicted)
        by_cost = assigned(centres, strides, predicted[own], sure[own], classes[own], there)
        return [by_cost, aligned(centres, predicted[own], classes[own].sigmoid(), there)]

    for together, *alone in zip(assign(0, 4), *(assign(image, image + 1) for image in range(4)), strict=True):
        for image, own in enumerate(alone):
            assert _rows(*together, image) == _rows(*own)
            assert bool(_rows(*own)) == bool(counts[image]) or counts[image] == 1  # its box may hold no centre


def test_pools_of_five_one_after_another_see_nine_and_thirteen_pixels() -> None:
    torch.manual_seed(5)
    pooling, x = SPPF(8, 8).double().eval(), torch.randn(1, 8, 15, 15, dtype=torch.float64)
    reduced = pooling.conv1(x)
    pools = [torch.nn.functional.max_pool2d(reduced, size, 1, size // 2) for size in (5, 9, 13)]
    assert torch.equal(pooling(x), pooling.conv2(torch.cat([reduced, *pools], dim=1)))


# -- networks


@pytest.mark.parametrize("name", [*SMALL, DEPTHWISE])
def test_losses_reach_every_parameter_with_objects_and_without(name: str) -> None:
    network = _built(name).train()
    torch.manual_seed(6)
    images = torch.randn(2, 3, 64, 96)
    for counts in ((3, 2), (2, 0), (0, 0)):
        losses = network(images, _targets(counts))
        assert all(bool(torch.isfinite(total)) and float(total.detach()) >= 0 for total, _ in losses.values())
        if not sum(counts):
            assert float(losses["boxes"][0].detach()) == 0.0
        network.zero_grad()
        torch.stack([total for total, _ in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
        without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
        assert not without


@pytest.mark.parametrize("name", ["yolov3", "yolov5n"])
def test_weights_are_known_from_the_targets_alone(name: str) -> None:
    network = _built(name).train()
    torch.manual_seed(7)
    for counts in ((3, 2), (1, 0), (0, 0)):
        targets = _targets(counts)
        losses = network(torch.randn(2, 3, 64, 96), targets)
        assert {key: float(weight) for key, (_, weight) in losses.items()} == known_weights(targets, (64, 96))


def test_a_recipe_s_own_anchors_are_learnt_and_their_weights_known() -> None:
    own = [4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28, 32, 32, 36, 36]
    torch.manual_seed(0)
    network = registry.get("yolov5n").build(num_classes=3, options={"anchors": own})
    assert isinstance(network, AnchorYolo)
    assert network.anchors[0][0] == (4, 4) and network.anchors[2] == ((28, 28), (32, 32), (36, 36))
    targets, images = _targets([3, 2]), torch.rand(2, 3, 64, 64)
    found = {key: float(weight) for key, (_, weight) in network.train()(images, targets).items()}
    assert found == registry.get("yolov5n").known_weights(targets, images, {"anchors": own})
    assert found != registry.get("yolov5n").known_weights(targets, images)
    with pytest.raises(BadOption, match=r"model\.options\.anchors: 4 numbers, but nine anchors have 18"):
        registry.get("yolov5n").build(num_classes=3, options={"anchors": own[:4]})


def test_from_an_epoch_on_boxes_of_yolox_have_an_l1_loss() -> None:
    torch.manual_seed(8)
    network = registry.get("yolox_tiny").build(num_classes=3, options={"l1_from_epoch": 2}).train()
    images, targets = torch.randn(2, 3, 64, 96), _targets((3, 2))

    def l1(*epochs: int) -> float:
        found = network(images, [own | {"epoch": epoch} for own, epoch in zip(targets, epochs, strict=True)])
        return float(found["l1"][0].detach())

    assert l1(0, 1) == 0 < l1(2, 1) and l1(2, 3) == pytest.approx(l1(2, 1) + l1(1, 2), rel=1e-5)
    assert "l1" not in registry.get("yolox_tiny").build(num_classes=3).train()(images, targets)


def test_the_l1_loss_is_the_distance_from_the_numbers_that_give_the_box() -> None:
    box, centre, stride = torch.tensor([[[10.0, 20.0, 42.0, 36.0]]]), torch.tensor([[[28.0, 28.0]]]), torch.tensor([[8.0]])
    right = torch.tensor([[[(26 - 24) / 8, (28 - 24) / 8, math.log(32 / 8), math.log(16 / 8)]]])
    assert float(anchor_free._far(right, box, centre, stride)) == pytest.approx(0, abs=1e-6)
    assert float(anchor_free._far(right + torch.tensor([1.0, -2.0, 0.5, 0.0]), box, centre, stride)) == pytest.approx(3.5)


@pytest.mark.parametrize("name", SMALL)
def test_images_of_several_sizes_are_seen_as_if_padded(name: str) -> None:
    network = _built(name).eval()
    torch.manual_seed(8)
    one, other = torch.randn(3, 50, 64), torch.randn(3, 64, 40)
    wanted = Inference(score=0.0, nms_iou=0.7, detections=50)
    with torch.inference_mode():
        both = network([one, other], inference=wanted)
        padded = torch.zeros(2, 3, 64, 64)
        padded[0, :, :50], padded[1, :, :, :40] = one, other
        whole = network(padded, inference=wanted)
    for found, (height, width) in zip(both, ((50, 64), (64, 40)), strict=True):
        assert len(found["scores"]) and (found["scores"].diff() <= 0).all()
        assert (found["boxes"] >= 0).all() and (found["boxes"] <= torch.tensor([width, height, width, height])).all()
    assert both[0]["scores"][0] == whole[0]["scores"][0]


@pytest.mark.parametrize("name", SMALL)
def test_losses_do_not_depend_on_the_memory_format(name: str) -> None:
    network = _built(name).double().train()
    torch.manual_seed(9)
    images, targets = torch.randn(2, 3, 64, 96, dtype=torch.float64), _targets((3, 2))
    expected = network(images, targets)
    network.to(memory_format=torch.channels_last)
    for loss, (total, _) in network(images.contiguous(memory_format=torch.channels_last), targets).items():
        torch.testing.assert_close(total, expected[loss][0], rtol=1e-10, atol=1e-12)


class _AutocastOfGpus(TorchFunctionMode):
    """Refuses within autocast what CUDA's refuses, and rounds what only CUDA's rounds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if torch.is_autocast_enabled("cpu") and name == "binary_cross_entropy":
            raise RuntimeError("binary_cross_entropy is unsafe to autocast")
        if torch.is_autocast_enabled("cpu") and name in ("matmul", "__matmul__"):
            args = [value.bfloat16() for value in args]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SMALL)
def test_losses_are_computed_under_autocast_with_functions_that_gpus_have(name: str) -> None:
    network = _built(name).train()
    torch.manual_seed(9)
    with _AutocastOfGpus(), torch.autocast("cpu", torch.bfloat16):
        losses = network(torch.randn(2, 3, 64, 96), _targets((3, 2)))
    assert all(total.dtype == torch.float32 and bool(torch.isfinite(total)) for total, _ in losses.values())


@pytest.mark.parametrize("name", SMALL)
def test_boxes_are_as_fine_under_autocast_as_without(name: str) -> None:
    network = _built(name).eval()
    torch.manual_seed(9)
    with torch.no_grad():
        outputs = [each.float() for each in network.head(network.body(torch.randn(1, 3, 64, 96)))]
        expected, _ = network._decoded(outputs)
        with _AutocastOfGpus(), torch.autocast("cpu", torch.bfloat16):
            found, _ = network._decoded(outputs)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)


def _used(network: Yolo) -> Yolo:
    """With running statistics that are not those of the start."""
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.randn(4, 3, 64, 64), _targets((1, 1, 1, 1)))
    return network.eval()


@pytest.mark.parametrize("name", [*SMALL, DEPTHWISE])
def test_fusing_changes_no_detection(name: str) -> None:
    network, side = _used(_built(name)), 64
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        boxes, scores = network._decoded(network.head(network.body(images)))
    count = sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    fused = network.fuse()
    assert count and not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    with torch.inference_mode():
        after, sure = fused._decoded(fused.head(fused.body(images)))
    assert torch.allclose(scores, sure, atol=1e-5, rtol=0) and torch.allclose(boxes, after, atol=1e-5 * side, rtol=1e-5)


def test_of_two_boxes_of_a_class_that_overlap_the_better_stays_and_classes_do_not_compete() -> None:
    from phalanx.models.detection.inference import best

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    scores, labels = torch.tensor([0.6, 0.9, 0.5, 0.01]), torch.tensor([0, 0, 1, 0])
    assert best(boxes, scores, labels, Inference()).tolist() == [1, 2, 3]
    assert best(boxes, scores, labels, Inference(detections=1)).tolist() == [1]


def test_detections_are_those_of_each_image_that_are_sure_enough_within_it() -> None:
    boxes = torch.tensor([[[-5.0, 0, 10, 10], [50, 50, 60, 99]], [[0, 0, 10, 10], [20, 20, 30, 30]], [[1, 1, 2, 2]] * 2])
    scores = torch.tensor([[[0.6, 0.0], [0.2, 0.9]], [[0.1, 0.1], [0.4, 0.01]], [[0.0, 0.01]] * 2])
    found = _detections(boxes, scores, [(64, 64)] * 3, Inference(score=0.1))
    assert [one["scores"].tolist() for one in found] == [pytest.approx([0.9, 0.6, 0.2]), pytest.approx([0.4, 0.1, 0.1]), []]
    assert [one["labels"].tolist() for one in found] == [[1, 0, 0], [0, 0, 1], []]
    assert found[0]["boxes"].tolist() == [[50, 50, 60, 64], [0, 0, 10, 10], [50, 50, 60, 64]]
    assert found[2]["boxes"].shape == (0, 4)


@pytest.mark.parametrize("name", SMALL)
def test_what_a_network_learns_it_finds(name: str) -> None:
    network: Any = _built(name).train()
    image, box = torch.zeros(1, 3, 64, 64), torch.tensor([[16.0, 20.0, 44.0, 52.0]])
    image[:, :, 20:52, 16:44] = 2.0
    images = torch.cat([image, image.flip(-1)])
    targets = [{"boxes": b, "labels": torch.tensor([1])} for b in (box, torch.tensor([[20.0, 20.0, 48.0, 52.0]]))]
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(100):
        losses = network(images, targets)
        optimizer.zero_grad()
        torch.stack([total / max(1.0, float(weight)) for total, weight in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.inference_mode():  # two images are too few for running statistics to mean anything
        found = network(images, inference=Inference(score=0.25))
    for one, target in zip(found, targets, strict=True):
        assert one["labels"][0] == 1
        assert on_boxes.iou(one["boxes"][:1], target["boxes"])[0] > 0.7


def test_yolov8_s_losses_are_multiplied_by_their_factor() -> None:
    images, targets = torch.rand(2, 3, 64, 64), _targets([2, 3])
    found = []
    for factor in (1.0, 64.0):
        torch.manual_seed(0)
        found.append(build("yolov8n", 3, loss_factor=factor)(images, targets))
    for name, (total, weight) in found[0].items():
        assert torch.allclose(found[1][name][0], total * 64) and torch.equal(found[1][name][1], weight)
