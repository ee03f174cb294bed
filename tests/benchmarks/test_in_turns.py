"""Commands in turns: one at a time, to their ends, and what each took."""

import itertools
import json
import sys
from pathlib import Path

import pytest

from benchmarks.in_turns import Started, in_turns

# Two processes each, which note when they run; a gap is a stop.
NOTES = """
import json, os, sys, time
child = os.fork()
spans, begun = [], time.monotonic()
last = begun
used = 0.0
while used < 0.9:
    time.sleep(0.005)
    now = time.monotonic()
    if now - last > 0.15:
        spans.append((begun, last))
        begun = now
    else:
        used += now - last
    last = now
spans.append((begun, last))
with open(f"{sys.argv[1]}-{'child' if child == 0 else 'parent'}.json", "w") as file:
    json.dump(spans, file)
if child:
    os.waitpid(child, 0)
"""


def test_one_command_runs_at_a_time_and_its_children_stop_with_it(tmp_path: Path) -> None:
    commands = {name: Started([sys.executable, "-c", NOTES, name]) for name in ("one", "two", "three")}
    found = in_turns(commands, 0.4, tmp_path)
    spans = []
    for name in commands:
        for which in ("parent", "child"):
            own = json.loads((tmp_path / f"{name}-{which}.json").read_text())
            assert len(own) >= 2  # it was stopped
            spans += [(name, *span) for span in own]
        assert 0.9 < found[name][0] < 10 and found[name][1] > 1
    for (one, begun, ended), (other, other_begun, other_ended) in itertools.combinations(spans, 2):
        assert one == other or min(ended, other_ended) - max(begun, other_begun) < 0.1


def test_a_command_that_fails_ends_all(tmp_path: Path) -> None:
    commands = {"bad": Started([sys.executable, "-c", "raise SystemExit(3)"]), "long": Started(["sleep", "100"])}
    with pytest.raises(SystemExit, match="exit code 3"):
        in_turns(commands, 0.3, tmp_path)
