"""Output that is gone never ends the work, and signals are answered at once: real processes, too small to need torch."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running import clean_environment

PRELUDE = "import os, signal, sys, time\nfrom phalanx.dist.processes import output\noutput.keep_steady()\n"

# Prints more than any buffer holds, to a reader that is or will be gone, and then does what counts.
PRINTS = """
for _ in range(20_000):
    print("step 1/100  loss 1.0")
    print("phalanx: a warning", file=sys.stderr, flush=True)
os.write(2, b"from a library in C") if os.environ.get("AND_C") else None
open("done", "w").write(str(output.lost()))
"""


def _python(code: str, cwd: Path, **how: object) -> "subprocess.Popen[str]":
    environment = clean_environment(**how.pop("environment", {}))  # type: ignore[arg-type]
    return subprocess.Popen([sys.executable, "-c", code], cwd=cwd, env=environment, text=True, **how)  # type: ignore[call-overload, no-any-return]


def test_a_reader_that_has_gone_ends_nothing_and_leaves_the_exit_code(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    process = _python(PRELUDE + PRINTS, tmp_path, stdout=writing, stderr=writing, environment={"AND_C": "1"})
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    assert process.wait(60) == 0
    assert "Broken pipe" in (tmp_path / "done").read_text()


def test_a_full_disk_ends_nothing_and_leaves_the_exit_code(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        assert _python(PRELUDE + PRINTS, tmp_path, stdout=full, stderr=full).wait(60) == 0
    assert "No space left" in (tmp_path / "done").read_text()


def test_a_closed_terminal_ends_nothing_and_leaves_the_exit_code(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = _python(PRELUDE + "time.sleep(0.3)" + PRINTS, tmp_path, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.close(ours)
    assert process.wait(60) == 0
    assert "Input/output error" in (tmp_path / "done").read_text()


def test_nothing_that_is_printed_lands_in_a_file_where_output_was_closed_at_the_start(tmp_path: Path) -> None:
    code = PRELUDE + "kept = open('kept', 'w')\nprint('lost', flush=True)\nos.write(1, b'lost')\nos.write(2, b'lost')\n"
    code += "print(sys.stdout.isatty())\nkept.write('kept')"
    shell = ["/bin/sh", "-c", '"$0" -c "$1" >&- 2>&- <&-', sys.executable, code]
    subprocess.run(shell, cwd=tmp_path, env=clean_environment(), check=True)
    assert (tmp_path / "kept").read_text() == "kept"


def test_a_name_that_the_terminal_cannot_show_ends_nothing(tmp_path: Path) -> None:
    code = PRELUDE + "print('Gebäude \\udcff')"
    process = _python(code, tmp_path, stdout=subprocess.PIPE, environment={"PYTHONIOENCODING": "ascii"})
    assert process.communicate()[0] == "Geb\\xe4ude \\udcff\n" and process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "place", "code"),
    [("--help", "| head -1", 0), ("config --keys", "| head -1", 0), ("config --keys", "> /dev/full", 1)],
)
def test_a_short_verb_fails_where_its_output_is_lost_but_not_where_its_reader_has_enough(
    tmp_path: Path, arguments: str, place: str, code: int
) -> None:
    line = f'"{sys.executable}" -m phalanx.launch.main {arguments} {place}; exit ${{PIPESTATUS[0]}}'
    said = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True)
    assert said.returncode == code, said.stderr
    assert said.stderr == ("phalanx: the output could not be written: No space left on device\n" if code else "")


STOPS = """
from phalanx.dist import heartbeat
from phalanx.dist.processes import stop
request = stop.StopRequest()
if steps:
    request.unsaved = lambda: steps[0]
heartbeat.beat(stage)
for number in numbers:
    os.kill(os.getpid(), number)
    for _ in range(200):
        time.sleep(0.01)
        if request.asked:
            break
    time.sleep(0.1)
print(getattr(stop.asked(), "name", None))
"""


def _stopped(cwd: Path, numbers: list[int], steps: list[int], stage: str = "forward", **environment: str) -> tuple[int, str]:
    """Exit code and words of a rank that gets signals; `steps` are in no checkpoint."""
    code = PRELUDE + f"numbers, steps, stage = {[int(n) for n in numbers]}, {steps}, {stage!r}\n" + STOPS
    process = _python(code, cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, environment=environment)
    said = process.communicate(timeout=60)[0]
    return process.returncode, said


def test_an_interrupt_is_answered_at_once_and_says_what_a_second_one_costs(tmp_path: Path) -> None:
    one, two = [signal.SIGINT], [signal.SIGINT, signal.SIGINT]
    code, said = _stopped(tmp_path, one, [37])
    answer = "phalanx: interrupted: stopping after this step and saving. A second Ctrl-C stops at once and loses 37 steps.\n"
    assert (code, said) == (0, f"{answer}SIGINT\n")
    assert "loses 1 step." in _stopped(tmp_path, one, [1])[1]
    assert "loses only the step under way" in _stopped(tmp_path, one, [0])[1]
    assert "after this evaluation" in _stopped(tmp_path, one, [3], "evaluation")[1]
    assert "nothing is lost yet" in _stopped(tmp_path, one, [])[1]
    code, said = _stopped(tmp_path, two, [37])
    assert code == 1 and said == f"{answer}phalanx: interrupted twice: stopping at once, without a checkpoint.\n"


def test_one_rank_answers_an_interrupt_for_all(tmp_path: Path) -> None:
    rank = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    code, said = _stopped(tmp_path, [signal.SIGINT, signal.SIGINT], [37], PHALANX_MAILBOX=str(tmp_path), **rank)
    assert (code, said) == (1, "") and (tmp_path / "rank-1.exit").read_text() == "1"
    (tmp_path / "told").touch()  # by `phalanx train`, while the ranks were starting
    assert "interrupted" not in _stopped(tmp_path, [signal.SIGINT], [37], PHALANX_MAILBOX=str(tmp_path))[1]


@pytest.mark.parametrize("start", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_lost_shell_asks_to_stop_except_under_nohup(tmp_path: Path, start: signal.Handlers) -> None:
    previous = signal.signal(signal.SIGHUP, start)
    try:
        code, said = _stopped(tmp_path, [signal.SIGHUP], [3])
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert code == 0 and ("None" in said) == (start is signal.SIG_IGN)
