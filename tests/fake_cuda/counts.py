"""The golden numbers of host waits, in `host_syncs.json` beside this file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.fake_cuda.cases import Case

FILE = Path(__file__).parent / "host_syncs.json"
RENEW = "python -m tests.fake_cuda --renew"
# What is counted: in the worst of a run's steps, of two micro-batches of two images; and over an evaluation of four images.
MEASURES = {
    "step": "operations of a training step for which the host waits",
    "waits": "waits of a training step for an event",
    "evaluation": "operations of an evaluation of four images for which the host waits",
}


def _release() -> str:
    return ".".join(torch.__version__.split(".")[:2])


def read() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {"torch": _release(), "counts": {}}


def differences(case: Case, found: Mapping[str, Any]) -> list[str]:
    """Sentences on what a run counted otherwise than the file has it. Another torch may wait more, or less: then none."""
    golden = read()
    if golden["torch"] != _release():
        return []
    known = golden["counts"].get(str(case))
    if known is None:
        return [f"{FILE.name} has no counts of {case}. Run `{RENEW}`."]
    said = []
    for measure, meaning in MEASURES.items():
        before, now = known[measure], found[measure]
        if now > before:
            said.append(f"{case}: {now} instead of {before} {meaning}. Remove what was added, see the places above.")
        elif now < before:
            said.append(f"{case}: {now} instead of {before} {meaning}, which is good. Run `{RENEW}`, and commit {FILE.name}.")
    return said


def renew(found: Mapping[Case, Mapping[str, Any]], of: Sequence[Case]) -> None:
    """Writes the counts of some cases into the file, beside those of the others in `of`."""
    counts = read()["counts"]
    counts |= {str(case): {measure: one[measure] for measure in MEASURES} for case, one in found.items() if "error" not in one}
    kept = {str(case): counts[str(case)] for case in of if str(case) in counts}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(kept[name])}" for name in kept)
    FILE.write_text(f'{{"torch": {json.dumps(_release())}, "counts": {{\n{lines}\n}}}}\n')
