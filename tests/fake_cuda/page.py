"""docs/fake_cuda.md, from the results of all cases."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.results import ROOT, made_by
from benchmarks.support.fake_cuda.cases import ALL, FORMATS, NETWORKS, PRECISIONS, Case
from tests.fake_cuda.running import judge

_PAGE = ROOT / "docs/fake_cuda.md"
_COMMAND = "python -m tests.fake_cuda --all --results docs/results/fake_cuda.jsonl --page"
_HEAD = """# On a pretended GPU

{made}

No machine of this project has a GPU, so that a CUDA device is pretended: `benchmarks/support/fake_cuda` makes tensors that say
`cuda:0`, are computed on the CPU, and obey CUDA's rules. It refuses mixed devices, and what autocast or deterministic mode
refuse on CUDA; copies arrive late, races between streams and memory freed too early are faults; where the host waits for the
device is counted. **It shows nothing about speed, rounding, drivers or NCCL.**

**{right} of {total} runs are right**: every family of networks, narrow and on images of 64 pixels, trains three steps of two
micro-batches of two images, saves asynchronously after the second and reads that back bit by bit, evaluates four images, and
predicts two. The tests run one precision and memory format of each (`tests/fake_cuda`), and fail where a number of the table
rises.

Waits of the host in a training step, in the worst of them: operations whose result Python needs, and, after the +, waits for an
event of an earlier step. `wrong` links to the list below.

| network | task | {columns} | in an evaluation |
| --- | --- | {rules} | --- |
"""


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "not run"
    return "wrong" if judge(one) else f"{one['step']} + {one['waits']}"


def _rows(found: Mapping[Case, Mapping[str, Any]]) -> Iterator[str]:
    for name, network in NETWORKS.items():
        ones = [found.get(Case(name, precision, form)) for precision in PRECISIONS for form in FORMATS]
        waits = sorted({one["evaluation"] for one in ones if one is not None and not judge(one)})
        spread = "" if not waits else str(waits[0]) if len(waits) == 1 else f"{waits[0]} to {waits[-1]}"
        yield f"| {name} | {network.task} | {' | '.join(map(_cell, ones))} | {spread} |"


def _places(found: Mapping[Case, Mapping[str, Any]], part: str) -> Iterator[str]:
    """Where float32 runs wait, most first, with the networks that do."""
    by_place: dict[str, dict[str, int]] = {}
    for case, one in found.items():
        if (case.precision, case.format) == ("fp32", "contiguous") and not judge(one):
            for place, count in one[part].items():
                by_place.setdefault(place, {})[case.network] = count
    for place, networks in sorted(by_place.items(), key=lambda item: -sum(item[1].values())):
        yield f"- `{place}`: {', '.join(f'{network} {count}' for network, count in networks.items())}"


def write(found: Mapping[Case, Mapping[str, Any]]) -> None:
    """Writes the page."""
    columns = [f"{precision} {form}" for precision in PRECISIONS for form in FORMATS]
    wrong = [f"- {case}: {'; '.join(judge(one))}" for case, one in found.items() if judge(one)]
    lines = [
        _HEAD.format(
            made=made_by(_COMMAND, "torchvision"),
            right=len(found) - len(wrong),
            total=len(ALL),
            columns=" | ".join(columns),
            rules=" | ".join("---" for _ in columns),
        ).rstrip(),
        *_rows(found),
        *(["", "Wrong:", "", *wrong] if wrong else []),
        "",
        "## Where a training step waits",
        "",
        "In float32, contiguous; the line of Phalanx, and behind it that of the library that it called.",
        "",
        *_places(found, "places in a step"),
        "",
        "## Where an evaluation waits",
        "",
        *_places(found, "places in evaluation"),
    ]
    _PAGE.write_text("\n".join(lines) + "\n")
