"""Data that is no longer what the run learnt: classes matched by name or refused, samples refused or told, in every verb."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info as data_facts
from phalanx.data.files.string_array import StringArray
from phalanx.data.identity import identity
from phalanx.data.open import open_split
from phalanx.data.same_classes import by_name
from phalanx.dist.checkpoint.tools import choose
from phalanx.dist.checkpoint.tools.fork import fork
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import forked
from phalanx.launch.verbs.data import main as look
from phalanx.train.evaluation.trained import another
from phalanx.train.setup.build import build_local, data_info
from phalanx.train.setup.recorded import record, recorded
from phalanx.train.setup.same_data import held_for_evaluation, held_for_training, refuse_other_classes
from tests.data import objects
from tests.data.pictures import image_folder, masks, picture, save
from tests.support.running import DIGITS, lines, phalanx

Write = Callable[[Path], None]


def rewritten(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def folder_renamed(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "class-0").rename(root / split / "zebra")


def listed(root: Path) -> None:
    for number in range(4):
        save(picture(number), root / f"{number}.png")
    for split in ("train", "val"):
        (root / f"{split}.csv").write_text("".join(f"{n}.png,{('ant', 'bee')[n % 2]}\n" for n in range(4)))


def relabelled(root: Path) -> None:
    for split in ("train", "val"):
        rewritten(root / f"{split}.csv", "ant", "wasp")


def swapped(root: Path) -> None:
    (root / "classes.txt").write_text("dog\ncat\n")


def category_renamed(root: Path) -> None:
    for split in ("train", "val"):
        rewritten(root / f"instances_{split}.json", '"name": "dog"', '"name": "wolf"')


def categories_swapped(root: Path) -> None:
    for split in ("train", "val"):
        text = (root / f"instances_{split}.json").read_text()
        (root / f"instances_{split}.json").write_text(
            text.replace('"dog"', '"x"').replace('"cat"', '"dog"').replace('"x"', '"cat"')
        )


def added_to_voc(root: Path) -> None:
    rewritten(root / "Annotations/train0.xml", "<name>cat</name>", "<name>bird</name>")


COUNTS = {"train": [2, 3], "val": [2]}
CHANGES: list[tuple[str, Write, Write, str]] = [
    (
        "image_folder",
        lambda root: void(image_folder(root), image_folder(root, split="val")),
        folder_renamed,
        "lacks class-0 and has zebra",
    ),
    ("list", listed, relabelled, "lacks ant and has wasp"),
    (
        "masks",
        lambda root: void(masks(root)),
        lambda root: rewritten(root / "classes.txt", "tree", "bush"),
        "lacks tree and has bush",
    ),
    (
        "masks",
        lambda root: void(masks(root)),
        lambda root: rewritten(root / "classes.txt", "road\ntree", "tree\nroad"),
        "class 0 was road, and is tree",
    ),
    ("coco", lambda root: objects.coco(root, COUNTS), category_renamed, "lacks dog and has wolf"),
    ("coco", lambda root: objects.coco(root, COUNTS), categories_swapped, "class 0 was cat, and is dog now"),
    ("voc", lambda root: objects.voc(root, COUNTS), added_to_voc, "has bird, on which the run was not trained"),
    ("yolo", lambda root: objects.yolo(root, COUNTS), swapped, "class 0 was cat, and is dog now"),
]


def void(*_: object) -> None:
    return None


def configured(name: str, root: Path, *settings: str) -> RunConfig:
    given = [
        f"data.name={name}",
        f"data.root={root}",
        "data.val_fraction=null",
        "data.train_split=train",
        f"runs={root.parent}",
    ]
    return load([DIGITS], [*given, "name=run", *settings])


def begun(config: RunConfig) -> RunDirectory:
    """A run that has recorded its data."""
    run = RunDirectory.of(config)
    run.path.mkdir()
    training, validation = (open_split(config.data, split) for split in ("train", "val"))  # type: ignore[arg-type]
    record(run, data_info(training, config), training, validation)
    return run


def held(run: RunDirectory, config: RunConfig) -> list[str]:
    return held_for_training(run, config, open_split(config.data, "train"), open_split(config.data, "val"))


@pytest.mark.parametrize(
    ("name", "write", "change", "said"), CHANGES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_classes_that_are_others_or_in_another_order_are_refused_by_name(
    tmp_path: Path, name: str, write: Write, change: Write, said: str
) -> None:
    write(tmp_path / "data")
    config = configured(name, tmp_path / "data")
    run = begun(config)
    assert held(run, config) == []
    change(tmp_path / "data")
    training = open_split(config.data, "train")
    for settings in (config, configured(name, tmp_path / "data", "data.changed=accept")):
        with pytest.raises(UserError, match=said) as caught:
            refuse_other_classes(run, settings, training)
        assert str(run.data) in str(caught.value) and "\n" not in str(caught.value)
        with pytest.raises(UserError, match=said):
            held(run, settings)
    content = json.loads(run.data.read_text())
    del content["splits"]
    run.data.write_text(json.dumps(content))  # as runs of before have it
    with pytest.raises(UserError, match=said):
        held(run, config)
    run.data.unlink()
    assert held(run, config) == []


def renamed(root: Path) -> None:
    (root / "train/class-0/0.png").rename(root / "train/class-0/zero.png")


def moved(root: Path) -> None:
    (root / "train/class-0/4.png").rename(root / "train/class-1/9.png")


SAMPLES: list[tuple[Write, str]] = [
    (lambda root: void(save(picture(99), root / "train/class-1/99.png")), "9 samples instead of 8"),
    (lambda root: (root / "train/class-1/0.png").unlink(), "7 samples instead of 8"),
    (renamed, "as many samples as before, 8, but with other names"),
    (moved, "as many samples as before, 8, but with other names"),
]


@pytest.mark.parametrize(("change", "said"), SAMPLES)
def test_training_samples_that_are_others_are_refused_or_accepted_and_reported(
    tmp_path: Path, change: Write, said: str
) -> None:
    root = image_folder(image_folder(tmp_path / "data"), split="val")
    config = configured("image_folder", root)
    run = begun(config)
    change(root)
    with pytest.raises(UserError, match=rf"{said}.*data\.changed=accept"):
        held(run, config)
    accepting = configured("image_folder", root, "data.changed=accept")
    (sentence,) = held(run, accepting)
    assert said in sentence and "twice" in sentence
    record(run, data_info(open_split(config.data, "train"), config), *(open_split(config.data, s) for s in ("train", "val")))  # type: ignore[arg-type]
    assert held(run, config) == []  # told once


def test_a_sample_of_another_class_is_noticed_in_a_list(tmp_path: Path) -> None:
    listed(tmp_path / "data")
    config = configured("list", tmp_path / "data")
    run = begun(config)
    rewritten(tmp_path / "data/train.csv", "0.png,ant", "0.png,bee")
    with pytest.raises(UserError, match="the same 4 samples, but some are of another class"):
        held(run, config)


def labelled_several(root: Path) -> None:
    for number in range(4):
        save(picture(number), root / f"{number}.png")
    for split in ("train", "val"):
        (root / f"{split}.csv").write_text("0.png,ant;bee\n1.png,bee\n2.png,ant\n3.png,\n")


def json_changed(**change: object) -> Write:
    def changed(root: Path) -> None:
        for split in ("train", "val"):
            content = json.loads((root / f"instances_{split}.json").read_text())
            content["annotations"][1] |= change
            (root / f"instances_{split}.json").write_text(json.dumps(content))

    return changed


EDITED: list[tuple[str, Write, Write]] = [
    ("list", labelled_several, lambda root: [rewritten(root / f"{s}.csv", "1.png,bee", "1.png,ant") for s in ("train", "val")]),
    ("coco", lambda root: objects.coco(root, COUNTS), json_changed(bbox=[7, 3, 12, 21])),
    ("coco", lambda root: objects.coco(root, COUNTS), json_changed(category_id=1)),
    ("coco", lambda root: objects.coco(root, COUNTS), json_changed(iscrowd=1)),
    ("coco masks", lambda root: objects.coco(root, COUNTS), json_changed(segmentation=[[7, 3, 19, 3, 19, 25]])),
    ("voc", lambda root: objects.voc(root, COUNTS), lambda root: [
        rewritten(root / f"Annotations/{split}0.xml", "<xmax>14</xmax>", "<xmax>15</xmax>") for split in ("train", "val")
    ]),
    ("yolo", lambda root: objects.yolo(root, COUNTS), lambda root: [
        path.write_text("0 0.5 0.5 0.25 0.25\n" * 2) for path in sorted(root.rglob("*.txt")) if path.stem == "0"
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write", "change"), EDITED)
def test_edited_labels_boxes_and_masks_are_refused_or_reported_but_not_to_runs_of_before(
    tmp_path: Path, name: str, write: Write, change: Write
) -> None:
    write(tmp_path / "data")
    name, *masked = name.split()
    settings = ["data.options.masks=true"] if masked else []
    config = configured(name, tmp_path / "data", *settings)
    run = begun(config)
    assert held(run, config) == []
    change(tmp_path / "data")
    with pytest.raises(UserError, match=r"same \d samples, but some have other labels, boxes or masks.*data\.changed=accept"):
        held(run, config)
    training, validation = held(run, configured(name, tmp_path / "data", "data.changed=accept", *settings))
    assert (
        "some have other labels, boxes or masks; data.changed=accept" in training and "metrics are not comparable" in validation
    )
    content = json.loads(run.data.read_text())
    for split in content["splits"].values():
        del split["annotations"]
    run.data.write_text(json.dumps(content))
    assert held(run, config) == []


def test_objects_in_another_order_and_categories_with_other_ids_are_no_edit(tmp_path: Path) -> None:
    objects.coco(tmp_path / "data", COUNTS)
    config = configured("coco", tmp_path / "data")
    run = begun(config)
    other_ids(tmp_path / "data", {1: 90, 2: 7})
    path = tmp_path / "data/instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"].reverse()
    path.write_text(json.dumps(content))
    training = open_split(config.data, "train")
    validation = by_name(open_split(config.data, "val"), training, "val")
    assert held_for_training(run, config, training, validation) == []


def test_another_validation_split_is_reported_and_nothing_refused(tmp_path: Path) -> None:
    root = image_folder(image_folder(tmp_path / "data"), split="val")
    config = configured("image_folder", root)
    run = begun(config)
    (root / "val/class-0/1.png").unlink()
    assert held(run, config) == held_for_evaluation(run, open_split(config.data, "val"))
    assert "7 samples instead of 8; metrics are not comparable" in held(run, config)[0]


def test_a_run_of_before_knows_its_number_of_samples_and_a_folder_may_lie_elsewhere(tmp_path: Path) -> None:
    root = image_folder(image_folder(tmp_path / "data"), split="val")
    run = begun(configured("image_folder", root))
    known = recorded(run)
    assert known is not None and known.splits["train"].names is not None
    elsewhere = configured("image_folder", Path(shutil.move(root, tmp_path / "moved")))
    assert held(run, elsewhere) == []
    run.data.write_text(
        json.dumps({name: value for name, value in json.loads(run.data.read_text()).items() if name != "splits"})
    )
    assert held(run, elsewhere) == []
    (tmp_path / "moved/train/class-1/0.png").unlink()
    with pytest.raises(UserError, match="7 samples instead of 8"):
        held(run, elsewhere)


KNOWN = {"classes": ["a", "b"], "channels": 3}
PARTS: list[tuple[object, dict[str, object]]] = [
    (KNOWN | {"classes": "ab"}, {}),
    (KNOWN | {"channels": "three"}, {}),
    (KNOWN | {"samples": "x"}, {}),
    (KNOWN, {"splits": [1]}),
    (KNOWN, {"splits": {"train": {"samples": None}}}),
    (KNOWN, {"splits": {"train": {"samples": 3, "names": {}}}}),
]
BROKEN = ["[]", "{", '{"facts": 3}', "[" * 9999, '"\\ud800"']
BROKEN += [json.dumps({"facts": data_info, "mean": [0.5], "std": [0.5]} | more) for data_info, more in PARTS]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_record_with_wrong_types_is_refused_in_a_sentence(tmp_path: Path, content: str) -> None:
    run = RunDirectory(tmp_path)
    run.data.write_text(content)
    with pytest.raises(UserError, match=r"data\.json: this file is broken"):
        recorded(run)


def test_names_have_one_digest_however_they_are_stored() -> None:
    names = [f"class-{n % 3}/ünï-{n}.png" for n in range(50)]
    stored = StringArray.of(names)
    order = numpy.random.default_rng(0).permutation(50)
    assert stored.taken(numpy.arange(50)).digest() == stored.digest() == StringArray.of(["", *names]).after(1).digest()
    assert stored.taken(order).digest() == StringArray.of([names[n] for n in order]).digest() != stored.digest()
    assert (
        StringArray.of(["ab", "c"]).digest() != StringArray.of(["a", "bc"]).digest()
        and StringArray.of([]).digest() == stored.after(50).digest()
    )


def test_parts_of_a_split_know_their_own_samples_and_a_dataset_without_names_their_number(tmp_path: Path) -> None:
    image_folder(tmp_path, (12, 6), split=None)
    parts = [load([DIGITS], ["data.name=image_folder", f"data.root={tmp_path}", f"data.fold={n}/3"]).data for n in (1, 2)]
    found = {identity(open_split(part, split)) for part in parts for split in ("train", "val")}  # type: ignore[arg-type]
    assert len(found) == 4 and {one.samples for one in found} == {12, 6}
    digits = identity(open_split(load([DIGITS], []).data, "train"))
    assert digits.names is None and digits.difference(digits) is None
    assert replace(digits, labels=None).difference(digits) is None


def other_ids(root: Path, ids: dict[int, int], without: str = "") -> None:
    """The validation's categories get other ids; one may go, with its objects."""
    path = root / "instances_val.json"
    content = json.loads(path.read_text())
    content["categories"] = [one | {"id": ids[one["id"]]} for one in content["categories"] if one["name"] != without]
    kept = {one["id"] for one in content["categories"]}
    moved = [one | {"category_id": ids[one["category_id"]]} for one in content["annotations"]]
    content["annotations"] = [one for one in moved if one["category_id"] in kept]
    path.write_text(json.dumps(content))


def test_categories_of_coco_are_matched_by_name_between_training_and_validation(tmp_path: Path) -> None:
    objects.coco(tmp_path / "data", {"train": [2], "val": [3, 1]})
    config = configured("coco", tmp_path / "data").data
    training, before = open_split(config, "train"), open_split(config, "val")
    other_ids(tmp_path / "data", {1: 90, 2: 7})  # the dog has the smaller id now
    assert open_split(config, "val").classes == ("dog", "cat")
    found = by_name(open_split(config, "val"), training, "val")
    assert found.classes == training.classes == ("cat", "dog")
    for index in range(2):
        assert torch.equal(found[index]["labels"], before[index]["labels"])  # type: ignore[arg-type]
    assert data_facts.category_ids(found) == [90, 7] and data_facts.class_counts(found) == data_facts.class_counts(before)

    other_ids(tmp_path / "data", {90: 90, 7: 7}, without="cat")
    alone = by_name(open_split(config, "val"), training, "val")
    assert alone.classes == ("cat", "dog") and alone[0]["labels"].tolist() == [1]  # type: ignore[union-attr]
    assert data_facts.category_ids(alone)[1] == 7 and data_facts.class_counts(alone) == [0, 1]
    assert data_facts.category_ids(alone)[0] not in (7, 1, 2)
    learning = configured("coco", tmp_path / "data", "task.name=detection", "model.name=yolov8n", "data.augment.shift=0")
    assert build_local(learning).validation.classes == ("cat", "dog")

    with pytest.raises(UserError, match="the split train has classes that the training split lacks: cat; training has dog"):
        by_name(training, open_split(config, "val"), "train")


class Named:
    """A dataset of the user's own: its classes are in an order of its own."""

    channels, mean, std = 1, (0.5,), (0.5,)

    def __init__(self, classes: tuple[str, ...], samples: list[dict[str, object]]):
        self.classes, self.samples = classes, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, object]:
        return self.samples[index]


def test_labels_of_every_kind_follow_the_names_of_the_classes() -> None:
    training = Named(("a", "b", "c"), [])
    mask = torch.tensor([[0, 1], [255, 1]], dtype=torch.uint8)
    samples: list[dict[str, object]] = [{"target": 1}, {"target": -1}, {"target": torch.tensor([1.0, -1.0])}, {"mask": mask}]
    found = by_name(Named(("c", "a"), samples), training, "val")  # type: ignore[arg-type]
    assert [found[0]["target"], found[1]["target"]] == [0, -1]
    assert found[2]["target"].tolist() == [-1.0, 0.0, 1.0]  # type: ignore[union-attr]
    assert found[3]["mask"].tolist() == [[2, 0], [255, 0]] and mask.tolist() == [[0, 1], [255, 1]]  # type: ignore[union-attr]
    same = Named(("a", "b", "c"), [])
    assert by_name(same, training, "val") is same  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the split val has several classes named c"):
        by_name(Named(("c", "c"), samples), training, "val")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two steps, and its data."""
    folder = tmp_path_factory.mktemp("trained")
    image_folder(image_folder(folder / "data"), split="val")
    phalanx("train", *SETTINGS, cwd=folder)
    return folder


SETTINGS = [DIGITS, "data.name=image_folder", "data.root=data", "data.val_fraction=null", "data.train_split=train", "name=one"]
SETTINGS += ["train.global_batch=4", "train.micro_batch=2", "train.steps=2", "data.workers=0", "model.stem=small"]


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test runs."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    rewritten(tmp_path / "runs/one/config.yaml", str(trained), str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_verb_holds_the_classes_against_the_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_renamed(here / "data")
    for words in (["evaluate", "runs/one"], ["resume", "runs/one", "train.steps=3"]):
        refused = phalanx(*words, cwd=here, expect=2)
        assert "lacks class-0 and has zebra" in refused.errors and "Traceback" not in refused.errors
    look(SETTINGS)
    assert "lacks class-0 and has zebra" in capsys.readouterr().err
    config = RunDirectory(Path("runs/one")).read_config()
    now = data_info(open_split(config.data, "train"), config)
    with pytest.raises(UserError, match="runs/one: this network was trained on other classes"):
        another("runs/one", config, now, torch.device("cpu"))


def test_a_resume_with_other_samples_is_refused_until_it_is_accepted_and_says_so(here: Path) -> None:
    save(picture(99), here / "data/train/class-0/99.png")
    (here / "data/val/class-0/0.png").unlink()
    assert "7 samples instead of 8; metrics are not comparable" in phalanx("evaluate", "runs/one", cwd=here).errors
    assert "9 samples instead of 8" in phalanx("resume", "runs/one", "train.steps=3", cwd=here, expect=2).errors
    assert lines(here / "runs/one/metrics.jsonl")[-1]["step"] == 2
    phalanx("resume", "runs/one", "train.steps=3", "data.changed=accept", cwd=here)
    reasons = [event["reason"] for event in lines(here / "runs/one/events.jsonl") if event["event"] == "warning"]
    assert any("9 samples instead of 8; data.changed=accept" in reason for reason in reasons)
    known = recorded(RunDirectory(Path("runs/one")))
    assert known is not None and known.splits["train"].samples == 9  # what was accepted is what the run knows


def test_a_fork_knows_the_data_of_its_run_unless_it_was_given_other_data(here: Path) -> None:
    run = RunDirectory(Path("runs/one"))
    for name, more, knows in ("same", ["optim.lr=0.1"], True), ("other", ["data.train_split=val"], False):
        new = fork(run, choose.newest_checkpoint(run).path, forked("runs/one", more, name))
        assert new.data.exists() == knows
