"""The order of the house: who imports whom, how many files lie in a folder, and that a name has one meaning."""

import ast
from collections import Counter, defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.running import ROOT

MAY_IMPORT = {
    "configs": set(),
    "dist": {"configs"},
    "models": set(),
    "data": {"configs", "dist"},
    "train": {"configs", "dist", "models", "data"},
    "launch": {"configs", "dist", "models", "data", "train", "slurm"},
    "slurm": {"configs", "dist"},
}
FILES = [(room, path) for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]


# Modules of one name that are about one subject.
SAME_SUBJECT = {
    "data": "the room, the section of a recipe, the verb",
    "dist": "the room, the section of a recipe",
    "slurm": "the room, the section of a cluster file",
    "models": "the room, the verb",
    "train": "the room, the verb, what launchers run for it",
    "evaluate": "the section of a recipe, the verb, what launchers run for it, the evaluation itself",
    "predict": "the verb, and what it runs",
    "checkpoint": "the room, the verb",
    "logs": "the verb, and what it runs",
    "status": "the verb, and what it runs",
    "submit": "the verb, and what it runs",
    "strategies": "the table, and the modules that it names",
    "tasks": "the table, and the modules that it names",
    "optim": "the section of a recipe, and the room",
    "detection": "networks for detection, and the task",
    "segmentation": "networks for segmentation, and the task",
    "yolo": "the networks, and their authors' format of annotations",
    "table": "a table of networks, one per kind",
    "layers": "what the networks of a family are made of",
}
MOST_FILES = 20


@cache
def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(("room", "path"), FILES, ids=[str(p.relative_to(ROOT)) for _, p in FILES])
def test_a_room_imports_only_what_it_may(room: str, path: Path) -> None:
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("phalanx.")} & set(MAY_IMPORT)
    assert rooms - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", sorted((ROOT / "models").rglob("*.py")), ids=lambda p: p.name)
def test_models_never_know_their_rank(path: Path) -> None:
    assert not [name for name in imported(path) if name.startswith("torch.distributed")]
    assert "RANK" not in path.read_text() and "world_size" not in path.read_text()


def test_configs_import_no_torch() -> None:
    for path in (ROOT / "configs").rglob("*.py"):
        assert not [name for name in imported(path) if name.split(".")[0] == "torch"]


def test_every_room_is_linked_into_the_package() -> None:
    package = ROOT / "src/phalanx"
    links = {p.name: p.resolve() for p in package.iterdir() if p.is_symlink()}
    assert links == {room: ROOT / room for room in MAY_IMPORT}


def name_of(path: Path) -> str:
    """A file's module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("phalanx", *(parts[:-1] if parts[-1] == "__init__" else parts)))


@pytest.mark.quick
def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports within functions count: they must not hide a circle."""
    modules = {name_of(path): path for _, path in FILES}
    graph = {}
    for name, path in modules.items():
        # `from package import name` is about the module of that name if there is one, else about the package.
        found = {one if one in modules else one.rpartition(".")[0] for one in imported(path)}
        graph[name] = (found & set(modules)) - {name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        raise AssertionError(f"a circle of imports: {' -> '.join(circle.args[1])}") from None


@pytest.mark.quick
def test_no_folder_is_crowded() -> None:
    counts = Counter(path.parent for _, path in FILES)
    crowded = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > MOST_FILES}
    assert not crowded


def test_modules_of_one_name_are_about_one_subject() -> None:
    found = defaultdict(list)
    for _, path in FILES:
        found[name_of(path).rpartition(".")[2]].append(name_of(path))
    several = {name: modules for name, modules in found.items() if len(modules) > 1}
    assert set(several) == set(SAME_SUBJECT), {name: several[name] for name in set(several) - set(SAME_SUBJECT)}


@pytest.mark.quick
def test_no_two_classes_share_a_name() -> None:
    found = defaultdict(list)
    for _, path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(name_of(path))
    assert not {name: modules for name, modules in found.items() if len(modules) > 1}
