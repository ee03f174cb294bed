"""The direction of imports between the rooms: the third column of the design's table."""

import ast
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
