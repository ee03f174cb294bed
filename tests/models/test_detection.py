"""Detectors: published sizes; torchvision's weights, outputs and losses; images alone or together, with objects or none."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from phalanx.configs.load import load
from phalanx.dist import precision
from phalanx.models import registry, weights
from phalanx.models.detection.inference import Inference
from phalanx.models.detection.paste import paste, paste_all, paste_each
from phalanx.models.detection.proposals import SAMPLES
from phalanx.models.detection.region_heads import _Sample, _within
from phalanx.models.detection.sampling import Counts, sampled
from phalanx.models.options import BadOption
from phalanx.train.setup import build
from phalanx.train.tasks import DataInfo
from tests.support.running import DIGITS

NETWORKS = registry.names("detection")
PUBLISHED = [name for name in NETWORKS if registry.MODELS[name].weights]
CLASSES = 4


@functools.cache
def plain(name: str) -> nn.Module:
    """A network as it is, without memory; nobody changes it."""
    with torch.device("meta"):
        return registry.get(name).build()


def small(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """A network that a test can run."""
    torch.manual_seed(0)
    if "backbone" in registry.MODELS[name].takes:
        options = {"backbone": "resnet18"} | options
    with_background = CLASSES + registry.MODELS[name].background
    return registry.get(name).build(num_classes=with_background, **options).to(dtype)


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=g, dtype=torch.float64) for size in sizes]


def target(size: tuple[int, int], objects: int, seed: int = 0) -> dict[str, Any]:
    """So many rectangles, whose masks fill their boxes but for a corner."""
    g = torch.Generator().manual_seed(seed)
    height, width = size
    corners = torch.rand(objects, 2, generator=g) * torch.tensor([width, height]) * 0.6
    sides = torch.tensor([width, height]) * (0.2 + 0.2 * torch.rand(objects, 2, generator=g))
    boxes = torch.cat([corners, corners + sides], dim=1)
    masks = torch.zeros(objects, height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
        mask[top : (top + bottom) // 2, left : (left + right) // 2] = False
    return {"boxes": boxes, "labels": torch.arange(objects) % CLASSES, "masks": masks, "seed": seed}


def reached(network: nn.Module, losses: dict[str, Any]) -> None:
    """Every parameter that is trained gets a finite gradient."""
    torch.stack([total for total, _ in losses.values()]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


# -- torchvision's sizes, weights, outputs and losses


@pytest.mark.parametrize("name", NETWORKS)
def test_a_detector_has_the_size_that_the_table_says(name: str) -> None:
    assert sum(p.numel() for p in plain(name).parameters()) == registry.MODELS[name].params


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_scores_are_those_that_torchvision_publishes(name: str) -> None:
    entry = registry.MODELS[name]
    published = getattr(detection, _class_of(name)).COCO_V1.meta
    assert entry.weights == ("COCO_V1",) and entry.classes == len(published["categories"])
    assert (entry.params, entry.score) == (published["num_params"], published["_metrics"]["COCO-val2017"]["box_map"])


def _class_of(name: str) -> str:
    return next(one for one in vars(detection) if one.lower() == f"{name}_weights")


def twins(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Ours, and torchvision's with the same weights: drawn so that scores and boxes differ from place to place."""
    ours = small(name, dtype, options={"norm": "batch"})
    theirs = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=CLASSES + 1).to(dtype)
    g = torch.Generator().manual_seed(2)
    for key, tensor in theirs.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            tensor.copy_(torch.rand(tensor.shape, generator=g) + (0.5 if key.endswith("var") else 0))
        elif any(part in key for part in ("predictor", "cls_", "bbox_")) and tensor.dim() > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=g) * 3 / tensor[0].numel() ** 0.5)
        elif key.endswith("classification_head.cls_logits.bias"):
            tensor.zero_()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn"])
def test_torchvision_s_state_dict_loads_unchanged_and_detects_the_same(name: str) -> None:
    ours, theirs = twins(name)
    sizes = [(32, 64)] * 2
    given = torch.stack(images(*sizes)).float()
    wanted = Inference(score=0.1, nms_iou=0.4, detections=30)
    theirs.eval().roi_heads.score_thresh, theirs.roi_heads.nms_thresh, theirs.roi_heads.detections_per_img = 0.1, 0.4, 30
    with torch.inference_mode():
        found = ours.eval()(given, inference=wanted)
        features = theirs.backbone(given)
        proposals, _ = theirs.rpn(ImageList(given, sizes), features)
        expected, _ = theirs.roi_heads(features, proposals, sizes)
    for one, other in zip(found, expected, strict=True):
        assert 5 < len(one["scores"]) <= 30 and bool((one["scores"].diff() <= 0).all())
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=1e-6)
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=1e-6)
        assert torch.equal(one["labels"], other["labels"] - 1)
        assert ("masks" in one) == registry.get(name).masks
        if "masks" in one:
            torch.testing.assert_close(one["masks"], other["masks"].squeeze(1), rtol=0, atol=1e-6)


def test_where_all_candidates_are_learnt_the_losses_are_torchvision_s() -> None:
    """At 32 pixels there are 258 anchors, and with the ignored ones left out fewer than are sampled."""
    ours, theirs = twins("fasterrcnn_resnet50_fpn", torch.float64)
    sizes = [(32, 32)] * 2
    given = torch.stack(images(*sizes))
    boxes = [[2.0, 3.0, 28.0, 30.0], [5.0, 1.0, 31.0, 25.0]]
    targets = [target((32, 32), 1) | {"boxes": torch.tensor([box], dtype=torch.float64)} for box in boxes]
    losses = ours.eval()(given, targets)
    features = theirs.eval().backbone(given)
    anchors = theirs.rpn.anchor_generator(ImageList(given, sizes), list(features.values()))
    labels, _ = theirs.rpn.assign_targets_to_anchors(anchors, targets)
    learnt = sum(int((each >= 0).sum()) for each in labels)
    assert all(int((each >= 0).sum()) < SAMPLES and int((each == 1).sum()) < SAMPLES / 2 for each in labels)
    theirs.rpn.training = theirs.roi_heads.training = True
    theirs.rpn._pre_nms_top_n = theirs.rpn._post_nms_top_n = {"training": 1000, "testing": 1000}
    proposals, of_rpn = theirs.rpn(ImageList(given, sizes), features, targets)
    from_one = [one | {"labels": one["labels"] + 1} for one in targets]
    _, of_regions = theirs.roi_heads(features, proposals, sizes, from_one)
    pairs = {
        "rpn_objectness": of_rpn["loss_objectness"] * learnt,
        "rpn_boxes": of_rpn["loss_rpn_box_reg"] * learnt,
        "classes": of_regions["loss_classifier"] * losses["classes"][1],
        "boxes": of_regions["loss_box_reg"] * losses["boxes"][1],
    }
    assert list(losses) == list(pairs) and losses["rpn_objectness"][1] == losses["rpn_boxes"][1] == 2 * SAMPLES
    for name, expected in pairs.items():
        assert expected > 0
        # torchvision's loss of objectness is float32 even here.
        torch.testing.assert_close(
            losses[name][0], expected.double(), rtol=1e-6, atol=0, msg=lambda said, n=name: f"{n}: {said}"
        )


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_a_dense_detector_loses_and_detects_as_torchvision_s(name: str) -> None:
    ours, theirs = twins(name)
    sizes = [(64, 96)] * 2
    given, listed = torch.stack(images(*sizes)).float(), ImageList(torch.stack(images(*sizes)).float(), sizes)
    targets = [target((64, 96), 3), target((64, 96), 0)]
    maps = list(theirs.eval().backbone(given).values())
    said, anchors = theirs.head(maps), theirs.anchor_generator(listed, maps)
    counts = [len(theirs.anchor_generator.cell_anchors[i]) * each[0, 0].numel() for i, each in enumerate(maps)]
    more = [counts] if name.startswith("fcos") else []
    expected = theirs.compute_loss([one | {"labels": one["labels"] + 1} for one in targets], said, anchors, *more)
    losses = ours.eval()(given, targets)
    assert len(losses) == len(expected) and all(weight > 0 for _, weight in losses.values())
    for (total, weight), mean in zip(losses.values(), expected.values(), strict=True):
        assert mean > 0
        torch.testing.assert_close(total / weight, mean, rtol=1e-5, atol=0)

    with torch.inference_mode():
        found = ours(given, inference=Inference(score=0.3, nms_iou=0.4, detections=20))
        said["cls_logits"][..., 0] = -100  # what torchvision never learns to be there
        theirs.score_thresh, theirs.nms_thresh, theirs.detections_per_img = 0.3, 0.4, 20
        of_maps = {key: list(value.detach().split(counts, dim=1)) for key, value in said.items()}
        seen = theirs.postprocess_detections(of_maps, [list(each.split(counts)) for each in anchors], sizes)
    for one, other in zip(found, seen, strict=True):
        assert 5 < len(one["scores"]) <= 20 and torch.equal(one["labels"], other["labels"] - 1)
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=1e-6)
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=1e-6)


def test_weights_under_the_names_that_torchvision_s_files_have_fit(tmp_path: Path) -> None:
    network = small("maskrcnn_resnet50_fpn")
    state = {name: torch.full_like(tensor, 0.5) for name, tensor in network.state_dict().items()}
    old = {}
    for name, tensor in state.items():
        for now, then in (("inner_blocks.{}.0.", "inner_blocks.{}."), ("layer_blocks.{}.0.", "layer_blocks.{}.")):
            for place in range(4):
                name = name.replace(now.format(place), then.format(place))
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for place in range(4):
            name = name.replace(f"mask_head.{place}.0.", f"mask_head.mask_fcn{place + 1}.")
        old[name] = tensor.float()
    assert len(old.keys() - state.keys()) == 26
    torch.save(old | {"backbone.body.bn1.num_batches_tracked": torch.tensor(3)}, tmp_path / "w.pth")
    weights.load(network, tmp_path / "w.pth")
    assert all(bool((tensor == 0.5).all()) for tensor in network.state_dict().values())


# -- frozen BatchNorm


def test_frozen_batchnorm_is_constant_and_takes_a_classifier_s_weights(tmp_path: Path) -> None:
    classifier = registry.get("resnet18").build(num_classes=3)
    for name, buffer in classifier.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(0.25)
    torch.save(classifier.state_dict(), tmp_path / "w.pth")
    facts = DataInfo(tuple("abcd"), 3, "detection", 10)
    settings = ["task.name=classification", "data.augment.shift=0", f"model.backbone_weights={tmp_path / 'w.pth'}"]
    config = load([DIGITS], ["model.name=faster_rcnn", "model.backbone=resnet18", "model.options.norm=frozen", *settings])
    network: Any = build.network(config, facts)
    build._start_from(config.model, network)
    layers = [m for m in network.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(layers) == 20 and not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert torch.equal(network.backbone.body.bn1.running_mean, torch.full((64,), 0.25))
    assert torch.equal(network.backbone.body.conv1.weight, classifier.conv1.weight)  # type: ignore[union-attr, arg-type]
    assert network.roi_heads.box_predictor.cls_score.out_features == 5  # four classes and the background
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()(torch.stack(images((64, 64))).float(), [target((64, 64), 2)])
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


@pytest.mark.parametrize(("given", "eps"), [("torchvision", 0.0), ("torchvision/COCO_V1", 0.0), (None, 1e-5), ("a.pth", 1e-5)])
def test_published_weights_keep_the_eps_that_they_were_trained_with(given: str | None, eps: float) -> None:
    facts = DataInfo(tuple("abcd"), 3, "detection", 10)
    settings = [] if given is None else [f"model.weights={given}"]
    config = load([DIGITS], ["model.name=fasterrcnn_resnet50_fpn", "data.augment.shift=0", *settings])
    with torch.device("meta"):
        network = build.network(config, facts)
    assert {m.eps for m in network.modules() if isinstance(m, FrozenBatchNorm2d)} == {eps}


# -- images together, one by one, and without objects


def test_what_an_image_adds_to_the_losses_does_not_depend_on_the_images_beside_it() -> None:
    network = small("mask_rcnn", options={"norm": "frozen"}).train()
    size = (32, 48)
    given, targets = torch.stack(images(size, size, size)), [target(size, 3, seed=5), target(size, 0, seed=6), target(size, 1)]
    together = network(given, targets)
    alone = [network(image[None], [own]) for image, own in zip(given, targets, strict=True)]
    for name, (total, weight) in together.items():
        assert weight == sum(one[name][1] for one in alone), name
        torch.testing.assert_close(total, sum(one[name][0] for one in alone), rtol=1e-10, atol=1e-12)
    again = network(given, [own | {"seed": own["seed"] + 1} for own in targets])
    assert any(not torch.equal(again[name][0], total) for name, (total, _) in together.items())


def test_as_many_proposals_are_learnt_as_the_recipe_says() -> None:
    network = small("mask_rcnn", torch.float32, options={"samples": 24}).train()
    losses = network(torch.stack(images((64, 64))).float(), [target((64, 64), 3)])
    assert losses["classes"][1] == losses["boxes"][1] == 24 and 3 <= losses["masks"][1] <= 6


def test_heads_can_be_narrower_and_the_mask_s_shallower_but_not_those_of_published_weights() -> None:
    network = small("mask_rcnn", torch.float32, options={"hidden": 32, "mask_channels": [16, 8]}).train()
    assert network.roi_heads.box_head.fc7.weight.shape == (32, 32)
    convolutions = [m for m in network.roi_heads.mask_head.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [16, 8]
    losses = network(torch.stack(images((64, 64))).float(), [target((64, 64), 3)])
    assert all(bool(torch.isfinite(total)) for total, _ in losses.values())
    with pytest.raises(BadOption, match=r"model\.options\.hidden: maskrcnn_resnet50_fpn has no such option"):
        registry.get("maskrcnn_resnet50_fpn").build(num_classes=4, options={"hidden": 32})
    with pytest.raises(BadOption, match=r"model\.options\.mask_channels: faster_rcnn has no such option"):
        registry.get("faster_rcnn").build(num_classes=4, options={"mask_channels": [8]})


def test_the_sample_is_a_function_of_its_seed_and_of_the_asked_size() -> None:
    labels = torch.cat([torch.ones(40), torch.zeros(200), torch.full((60,), -1.0)])
    (counts,) = Counts([labels]).of_images()
    draws = [sampled(labels, counts, 64, 0.25, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    positive, negative = draws[0]
    assert len(positive) == 16 and len(negative) == 48
    assert bool((labels[positive] == 1).all()) and bool((labels[negative] == 0).all())
    assert len(set(positive.tolist())) == 16 and len(set(negative.tolist())) == 48
    assert all(torch.equal(a, b) for a, b in zip(draws[0], draws[1], strict=True))
    assert not torch.equal(draws[0][1], draws[2][1])
    few = sampled(labels[30:], (10, 200), 64, 0.25, torch.Generator().manual_seed(1))
    assert (len(few[0]), len(few[1])) == (10, 54)


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "maskrcnn_resnet50_fpn_v2", "retinanet", "fcos"])
def test_without_any_object_losses_of_objects_are_zero_and_every_parameter_has_a_gradient(name: str) -> None:
    network, size = small(name, torch.float32).train(), (32, 32)
    losses = network(torch.stack(images(size, size)).float(), [target(size, 0), target(size, 0, seed=1)])
    for loss, (total, _) in losses.items():
        assert total > 0 if loss in ("rpn_objectness", "classes") else total == 0
    assert "masks" not in losses or losses["masks"][1] == 0
    reached(network, losses)
    assert all(bool(torch.isfinite(buffer).all()) for buffer in network.buffers())


@pytest.mark.parametrize(
    ("name", "backbone"), [("mask_rcnn", "resnet18"), ("retinanet", "convnext_tiny"), ("faster_rcnn", "swin_t")]
)
def test_any_backbone_takes_images_of_several_sizes(name: str, backbone: str) -> None:
    network = small(name, torch.float32, backbone=backbone, options={"anchors": [8, 16, 32, 64, 128]}).train()
    sizes = [(33, 52), (60, 40)]
    given = [image.float() for image in images(*sizes)]
    reached(network, network(given, [target(size, 2, seed=i) for i, size in enumerate(sizes)]))
    found = network.eval()(given, inference=Inference(score=0.0, detections=7))
    for one, (height, width) in zip(found, sizes, strict=True):
        assert one["boxes"].shape == (7, 4) and one["scores"].shape == one["labels"].shape == (7,)
        assert bool((one["boxes"] >= 0).all()) and bool((one["boxes"] <= torch.tensor([width, height] * 2)).all())
        assert bool((one["labels"] >= 0).all()) and bool((one["labels"] < CLASSES).all())
        assert name != "mask_rcnn" or one["masks"].shape == (7, 28, 28)


def test_boxes_stay_in_float32_under_bf16() -> None:
    network = small("faster_rcnn", torch.float32)
    precision.apply(network, "bf16", torch.device("cpu"))
    image = images((32, 640))[0].float()
    (found,) = network.eval()(image[None], inference=Inference(score=0.0))
    far = found["boxes"][found["boxes"] > 128]
    assert found["boxes"].dtype == torch.float32 and len(far) > 20
    assert float((far == far.bfloat16().float()).float().mean()) < 0.5
    losses = network.train()(image[None], [target((32, 640), 4)])
    assert {total.dtype for total, _ in losses.values()} == {torch.float32}
    reached(network, losses)


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_of_the_coarsest_maps_what_sees_nothing_learns_nothing_under_bf16(name: str) -> None:
    """At 64 pixels the last but one is a single pixel, of which only the middle of a 3x3 kernel sees anything."""
    network = small(name, torch.float32).train()
    precision.apply(network, "bf16", torch.device("cpu"))
    for seed in range(3):
        network.zero_grad()
        reached(network, network(torch.stack(images((64, 64))).float(), [target((64, 64), 2, seed)]))
        gradient = network.backbone.fpn.extra_blocks.p7.weight.grad
        assert gradient[:, :, 1, 1].abs().max() > 0
        gradient[:, :, 1, 1] = 0
        assert not gradient.any()


# -- masks


def sample_of(boxes: Sequence[Sequence[float]]) -> _Sample:
    count = len(boxes)
    return _Sample(torch.tensor(boxes, dtype=torch.float64), torch.ones(count, dtype=torch.int64), torch.arange(count), count)


def test_what_is_learnt_of_a_mask_is_its_part_within_the_box_pixel_by_pixel() -> None:
    mask = torch.rand(1, 60, 50, generator=torch.Generator().manual_seed(0)) < 0.5
    inside = _within(sample_of([[7.0, 12.0, 35.0, 40.0]]), mask, torch.zeros(1, 28, 28, dtype=torch.float64))
    assert torch.equal(inside[0] > 0.5, mask[0, 12:40, 7:35]) and set(inside.unique().tolist()) == {0.0, 1.0}


def test_pasting_undoes_what_is_learnt() -> None:
    y, x = torch.meshgrid(torch.arange(90) + 0.5, torch.arange(120) + 0.5, indexing="ij")
    masks = torch.stack([(x - 40) ** 2 + (y - 50) ** 2 < 30**2, ((x - 90) / 20).abs() + ((y - 30) / 25).abs() < 1])
    boxes = [[9.6, 19.8, 71.0, 80.4], [69.0, 4.0, 111.5, 56.0]]  # not whole, and not tight
    inside = _within(sample_of(boxes), masks, torch.zeros(1, 28, 28, dtype=torch.float64))
    found = paste(inside, torch.tensor(boxes), (90, 120))
    overlap = (found & masks).sum((1, 2)) / (found | masks).sum((1, 2))
    assert found.dtype == torch.bool and bool((overlap > 0.97).all())
    centre = [
        (each.nonzero().double().mean(0) - own.nonzero().double().mean(0)).abs().max()
        for each, own in zip(found, masks, strict=True)
    ]
    assert max(centre) < 0.1


def test_a_pasted_mask_lies_where_its_box_does_also_beyond_the_border_and_below_a_pixel() -> None:
    masks = torch.ones(4, 28, 28)
    masks[0, :, 14:] = 0
    boxes = torch.tensor([[10.0, 5.0, 20.0, 15.0], [-4.0, -4.0, 3.0, 3.0], [6.2, 6.2, 6.4, 6.4], [8.0, 8.0, 8.0, 9.0]])
    found = paste(masks, boxes, (20, 30))
    expected = torch.zeros(4, 20, 30, dtype=torch.bool)
    expected[0, 5:15, 10:15] = expected[1, :3, :3] = True
    assert torch.equal(found, expected)
    assert paste(masks[:0], boxes[:0], (20, 30)).shape == (0, 20, 30)


@pytest.mark.parametrize("seed", range(3))
def test_masks_pasted_together_are_those_pasted_one_by_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.models.detection.paste._PIXELS", 4 * 40 * 50)  # four at a time
    g = torch.Generator().manual_seed(seed)
    masks, corners = torch.rand(11, 28, 28, generator=g), torch.rand(11, 2, generator=g) * 50 - 10
    boxes = torch.cat([corners, corners + torch.rand(11, 2, generator=g) * 30], dim=1).double()
    boxes[3, 2:] = boxes[3, :2]  # nothing
    each = paste_each(masks, boxes, (40, 50))
    assert each.any() and torch.equal(paste_all(masks, boxes, (40, 50)), each)
    assert paste_all(masks[:0], boxes[:0], (40, 50)).shape == (0, 40, 50)


# -- what is refused


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("faster_rcnn", {"backbone": "vit_b_16", "image_size": 224}, "model.backbone=vit_b_16: its maps have strides of 16"),
        ("mask_rcnn", {"options": {"anchors": [8, 16]}}, "model.options.anchors=.*the pyramid has 5 maps"),
        ("mask_rcnn", {"options": {"norm": "group"}}, "model.options.norm=group: this is not a word: batch"),
        ("maskrcnn_resnet50_fpn", {"backbone": "resnet18"}, "takes no backbone"),
    ],
)
def test_what_a_detector_cannot_be_is_refused(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadOption, match=sentence), torch.device("meta"):
        registry.get(name).build(num_classes=5, **options)
