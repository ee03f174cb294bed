"""Every program in `benchmarks/` still runs: `--smoke` does what the real run does, on little, in seconds.

A program whose `main` takes a pool of ranks runs here with the session's; the others in forks of a process that has torch.
"""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.rank_pool import Pool
from tests.support.running import FORGE, ROOT, clean_environment

BENCHMARKS = ROOT / "benchmarks"
PROGRAMS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text())
_TIMEOUT_S = 250


def _kept() -> dict[Path, tuple[int, int]]:
    """When each file of the published results and of the benchmarks was written, and its size."""
    files = [path for folder in (ROOT / "docs", BENCHMARKS) for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files if path.is_file()}


def _objects(output: str) -> list[dict[str, Any]]:
    """One JSON object, or a line each."""
    try:
        return [json.loads(output)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_benchmark_runs_on_little_and_writes_nothing_that_is_published(
    program: str, pool: Pool, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _kept()
    main = importlib.import_module(f"benchmarks.{program}").main
    if "pool" in inspect.signature(main).parameters:
        monkeypatch.chdir(tmp_path)
        code, (output, errors) = main(["--smoke"], pool), capfd.readouterr()
    else:
        environment = clean_environment(TMPDIR=str(tmp_path))
        forked = FORGE.start(["--smoke"], tmp_path, environment, function=f"benchmarks.{program}:main")
        output, errors = forked.communicate(_TIMEOUT_S)
        code = forked.returncode
    assert code == 0, f"{program} --smoke ends with {code}. Every program in benchmarks/ has a --smoke:\n{output}\n{errors}"
    found = _objects(output)
    assert found and all(found)
    assert _kept() == before and not list(tmp_path.iterdir()), "a smoke run leaves nothing behind"
    if program == "kills":
        _judge_kills(found[-1])


def _judge_kills(found: dict[str, Any]) -> None:
    """Of one of two ranks, before a step and later."""
    assert found["kills"] == found["ok"] == found["survivors"] >= 2
    assert found["before_the_first_step"] >= 1
    assert found["runs_equal_to_the_unbroken"] == found["runs"] == 1


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 15
