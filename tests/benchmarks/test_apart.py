"""Tests may import benchmarks; benchmarks import no tests, and no test changes a benchmark."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.running import ROOT
from tests.test_rooms import imported


def test_benchmarks_import_no_tests() -> None:
    """What both need is in `benchmarks/support/`."""
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert not [name for name in imported(path) if name.split(".")[0] == "tests"], path


_CHANGES = {"setattr", "setitem", "delattr", "write_text", "write_bytes", "unlink", "rename", "touch", "mkdir", "symlink_to"}


def test_no_test_changes_a_benchmark() -> None:
    """Neither its file nor a name in it: what a test needs to be otherwise is an argument."""
    changes = [f"{path}: {change}" for path in sorted((ROOT / "tests").rglob("*.py")) for change in _changes(path)]
    assert not changes


def _changes(path: Path) -> Iterator[str]:
    """Statements of a file that write to a benchmark, or into its names."""
    tree, ours = ast.parse(path.read_text()), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "benchmarks":
            ours |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGES:
            target = node.args[0] if node.func.attr in ("setattr", "setitem", "delattr") else node.func.value
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            target = node.value
        else:
            continue
        names = {inner.id for inner in ast.walk(target) if isinstance(inner, ast.Name)}
        words = {inner.value for inner in ast.walk(target) if isinstance(inner, ast.Constant) and isinstance(inner.value, str)}
        if names & ours or any(word.split("/")[0] == "benchmarks" for word in words):
            yield ast.unparse(node)
