"""Where loader processes lack memory, room in /dev/shm or open files, one sentence says so, before the first step if it can."""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.data.loading import worker_memory
from phalanx.data.loading.loader import EvaluationLoader, Loader, Samples, _EvaluationBatches, _fork_loader, _Maker
from phalanx.data.loading.packing import Load
from phalanx.data.loading.resource_errors import LoaderFailed, explained
from phalanx.dist.health.failure_report import is_echo
from phalanx.dist.microbatches.sampler import Stream, share
from phalanx.dist.processes.children import kill_children
from tests.support.running import DIGITS, ranks

SHARED = "/dev/shm, through which loader processes send batches, is full or too small"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a loader process was killed: usually"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "a loader process ended without a report"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "), "ended: Segmentation fault"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"), SHARED),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"), SHARED),
        (
            RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"),
            "too many",
        ),
        (RuntimeError("received 0 items of ancdata"), "too many open files"),
        (OSError(24, "Too many open files"), "too many open files: this process may have"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "too many open files, or no room"),
        (ConnectionResetError(104, "Connection reset by peer"), "a loader process ended while it sent a batch"),
        (OSError(28, "No space left on device", "/dev/shm/sem.x"), SHARED),
        (BlockingIOError(11, "Resource temporarily unavailable"), "no more processes can be started here"),
        (OSError(12, "Cannot allocate memory"), "not enough memory"),
    ],
)
def test_what_the_machine_lacks_is_a_sentence_with_the_key_to_change(error: Exception, sentence: str) -> None:
    said = explained(error)
    assert said is not None and sentence in said and "data.workers" in said


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("out of resource: shared memory, Required: 147456, Hardware limit: 101376"),
        OSError(28, "No space left on device", "/data/cache"),
        ValueError("too many open files"),
    ],
)
def test_an_error_of_another_kind_stays_as_it_is(error: Exception) -> None:
    assert explained(error) is None


def test_too_little_shared_memory_is_refused_before_the_first_step_with_the_number_that_fits() -> None:
    found = os.statvfs("/dev/shm")
    free = found.f_bavail * found.f_frsize
    load = Load(free // 30, 1)
    worker_memory.check(load, 7, 2, local_ranks=2)  # two that each process has ready, and one in use: 15 a rank
    with pytest.raises(UserError, match=r"data.workers=8: .* MB of /dev/shm .* MB are free. Set data.workers=7, or enlarge"):
        worker_memory.check(load, 8, 2, local_ranks=2)
    with pytest.raises(UserError, match=r"Set data.workers=0 \(loads in the training process\)"):
        worker_memory.check(Load(free, 1), 2, 2, local_ranks=1)
    worker_memory.check(Load(free, 1), 0, 2, local_ranks=1)


def test_too_few_open_files_are_refused_before_the_first_step() -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    worker_memory.check(Load(1, 2), 2, 2, local_ranks=1)
    with pytest.raises(UserError, match=f"data.workers=2: a rank needs about .* open files .* but may have {limit}. Set"):
        worker_memory.check(Load(1, limit), 2, 2, local_ranks=1)


def test_many_more_loader_processes_than_cores_are_reported() -> None:
    cores = len(os.sched_getaffinity(0))
    assert worker_memory.doubt(1, 2 * cores) is None and worker_memory.doubt(0, 8) is None
    assert f"{64 * cores} loader processes on this node, which has {cores} core" in (worker_memory.doubt(64, cores) or "")


class Ends:
    """A data set whose loader process meets its end at the sixth sample."""

    def __init__(self, how: str) -> None:
        self._how = how

    def __len__(self) -> int:
        return 24

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number == 5 and self._how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 5 and self._how == "no room":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
        if number == 5 and self._how == "its own error":
            raise RuntimeError("the data is odd")
        if number == 5 and self._how == "no files":
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        if number == 5 and self._how == "no files, nor a batch":
            time.sleep(0.5)  # the batch of before is sent by then
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
            raise UserError("nothing is sent that would show the lack")
        return {"image": torch.zeros(3, 160, 160), "boxes": torch.zeros(9000, 4), "target": number}


def _same(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


_same.ragged = frozenset({"boxes"})  # type: ignore[attr-defined]


def _said(start: Callable[[], Iterable[Any]], capfd: pytest.CaptureFixture[str]) -> str:
    """What a process of its own says that takes all batches, and its loader processes: the explanation, not a traceback.

    Of its own, since torch raises its error for every loader process that ends, wherever the rank is at that moment.
    """
    reading, writing = os.pipe()
    rank = os.fork()
    if rank == 0:
        try:
            for _ in start():
                pass
            said = "no error"
        except RuntimeError as error:
            said = str(error) if isinstance(error, LoaderFailed) else explained(error) or repr(error)
        os.write(writing, said.encode())
        kill_children()
        os._exit(0)
    os.close(writing)
    end = time.monotonic() + 60
    while os.waitpid(rank, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(rank, signal.SIGKILL)
            os.waitpid(rank, 0)
            os.close(reading)
            pytest.fail("the rank waits for ever")
        time.sleep(0.02)
    with os.fdopen(reading) as told:
        return told.read() + capfd.readouterr().err


@pytest.mark.parametrize("evaluation", [True, False], ids=["evaluation", "training"])
@pytest.mark.parametrize(
    ("how", "sentence"),
    [("killed", "when memory runs out"), ("no room", "/dev/shm, through which"), ("no files", "too many open files")],
)
def test_a_loader_process_that_lacks_something_fails_with_a_sentence_and_never_hangs(
    how: str, sentence: str, evaluation: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    def start() -> Iterable[Any]:
        samples = Samples(Ends(how), _same, seed=0)
        if evaluation:
            return EvaluationLoader(samples, 24, 2, 0, 1, workers=2)
        return Loader(samples, Stream(24, 0, 8, 4), share(2, 0, 1), 2, pin=False).from_step(0, 30)

    assert sentence in _said(start, capfd).lower()


def test_a_loader_process_that_cannot_answer_for_a_batch_it_sent_ends(capfd: pytest.CaptureFixture[str]) -> None:
    """The rank, which waits for that answer, would wait for ever; Python's thread tries again without end."""

    def start() -> Iterable[Any]:
        samples = Samples(Ends("no files, nor a batch"), _same, seed=0)
        batches = _fork_loader(_Maker(samples, None, None), _EvaluationBatches(24, 2, 0, 12), 2, pin=False)
        time.sleep(2)  # the first batches are sent, not yet fetched, and the limit is set
        return batches

    assert "a loader process cannot send a batch: too many open files" in _said(start, capfd)


KILLS = """
import os, signal
import torch
from torch.utils.data import get_worker_info

class Kills:
    classes = ("left", "right")
    channels, mean, std = 3, (0.5,) * 3, (0.5,) * 3
    def __init__(self, root, split): pass
    def __len__(self): return 24
    def __getitem__(self, i):
        if i == 7 and get_worker_info() is not None and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"image": torch.zeros(3, 8, 8), "target": i % 2}
"""


def test_a_killed_loader_process_ends_all_ranks_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "kills.py").write_text(KILLS)
    small = ["model.stem=small", "data.image_size=16", "train.global_batch=16", "train.micro_batch=4", "train.steps=9"]
    own = ["data.name=./kills.py:Kills", "data.workers=2", "data.augment.shift=0", "dist.device=cpu", "name=killed"]
    failed = ranks(2, DIGITS, *small, *own, cwd=tmp_path, expect=1)
    assert "phalanx: rank 1: a loader process" in failed.errors and "Set data.workers to fewer" in failed.errors
    assert "phalanx: rank 0 lost another rank, and ends with it: " in failed.errors and "Traceback" not in failed.errors
    assert "Traceback" in (tmp_path / "runs/killed/errors/rank-0.json").read_text()


def test_an_error_of_the_data_s_own_is_raised_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    def start() -> Iterable[Any]:
        return EvaluationLoader(Samples(Ends("its own error"), _same, seed=0), 24, 2, 0, 1, workers=2)

    assert "the data is odd" in _said(start, capfd)


def test_a_report_of_an_error_that_was_raised_from_itself_ends() -> None:
    circle = RuntimeError("a")
    circle.__cause__ = circle
    assert not is_echo(circle)


def test_an_error_of_the_data_s_own_in_a_loader_process_ends_all_ranks(tmp_path: Path) -> None:
    odd = KILLS.replace("class Kills", "class Odd").replace(
        "os.kill(os.getpid(), signal.SIGKILL)", 'raise RuntimeError("odd data")'
    )
    (tmp_path / "odd.py").write_text(odd)
    small = ["model.stem=small", "data.image_size=16", "train.global_batch=16", "train.micro_batch=4", "train.steps=9"]
    own = ["data.name=./odd.py:Odd", "data.workers=2", "data.augment.shift=0", "dist.device=cpu", "name=odd"]
    failed = ranks(2, DIGITS, *small, *own, cwd=tmp_path, expect=1)
    assert "phalanx: rank 1 failed in step" in failed.errors and "RuntimeError: odd data" in failed.errors
