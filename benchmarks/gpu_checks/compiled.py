"""`dist.compile=true` gives what the model gives without it, dropout included."""

from typing import Any

from benchmarks.gpu_checks.check import Bench, NotShown
from benchmarks.gpu_checks.formats import differences, trained, within

_COMPILE = "dist.compile=true"


def equals_eager(bench: Bench) -> tuple[bool, dict[str, Any]]:
    if bench.way.pretended:
        raise NotShown("the compiler would write code for a CUDA device, which the pretended one cannot run")
    ways = {"cnn": ("cnn+dropout", []), "fsdp": ("transformer", ["dist.strategy=fsdp"])}
    figures = {}
    for name, (model, overrides) in ways.items():
        figures[name] = differences(trained(bench, model, 3, _COMPILE, *overrides), trained(bench, model, 3, *overrides))
        bench.tell(name, figures[name])
    return all(within(found, 1e-4) for found in figures.values()), figures
