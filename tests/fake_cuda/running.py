"""Asks for runs, and judges them."""

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.support.fake_cuda.cases import NETWORKS, Case, narrow
from tests.fake_cuda.asking import Worker

_LIMIT_S = 250.0


def measure(worker: Worker, case: Case, few_channels: bool = False) -> dict[str, Any]:
    """What a run found, with its seconds; or its error.

    Args:
        few_channels: whether the network is one of `benchmarks/support/narrow`, where there is one.
    """
    overrides = narrow(case.overrides) if few_channels else case.overrides
    task = NETWORKS[case.network].task
    answer = worker.ask("tests.fake_cuda.trained:run", _LIMIT_S, task=task, overrides=overrides)
    seconds = {"seconds": answer.seconds, "cpu_seconds": answer.cpu_seconds}
    if answer.error is not None:
        return {"error": answer.error, "traceback": answer.traceback} | seconds
    return answer.result | seconds


def judge(found: Mapping[str, Any]) -> list[str]:
    """What is wrong with a run."""
    if "error" in found:
        return [found["error"]]
    wrong = [
        *found["faults"],
        *(f"the checkpoint's {name} is not that of the step" for name in found["wrong"]),
        *(f"{name} is on the host" for name in found["on the host"]),
        *(f"{count} x {place}" for place, count in found["pageable"].items()),
    ]
    if not found["finite"]:
        wrong.append(f"losses {found['losses']}")
    if not found["metrics"] or not all(math.isfinite(value) for value in found["metrics"].values()):
        wrong.append(f"metrics {found['metrics']}")
    if len(found["losses"]) != 3 or found["predictions"] != 2 or not found["read back"]:
        wrong.append(
            f"{len(found['losses'])} steps, {found['predictions']} predictions, {found['read back']} tensors read back"
        )
    return wrong
