"""Every family of networks trains, saves, evaluates and predicts on the pretended device, and waits no oftener than before.

One precision and memory format of each; `python -m tests.fake_cuda --all` runs all of them.
"""

from itertools import product

import pytest

from benchmarks.support.fake_cuda.cases import CHOSEN, FORMATS, NETWORKS, PRECISIONS, Case
from phalanx.models.registry import MODELS
from tests.fake_cuda import counts
from tests.fake_cuda.asking import Worker
from tests.fake_cuda.running import judge, measure


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_a_network_runs_on_the_device(worker: Worker, case: Case) -> None:
    found = measure(worker, case, few_channels=True)
    assert not judge(found), found.get("traceback") or found
    print(*(f"{count} {place}" for place, count in found["places in a step"].items()), sep="\n")
    assert not counts.differences(case, found)


def test_the_chosen_cases_cover_every_pair() -> None:
    """Every family, and in each task every precision with every memory format."""
    assert {case.network for case in CHOSEN} == set(NETWORKS)
    for tasks in (("classification",), ("segmentation",), ("detection", "instance")):
        found = {(case.precision, case.format) for case in CHOSEN if NETWORKS[case.network].task in tasks}
        assert found == set(product(PRECISIONS, FORMATS)), tasks


def test_every_module_of_networks_is_among_the_families() -> None:
    """So that a new one is added here. Inception is left out: as GoogLeNet, and three times as large."""
    named = {next(o for o in network.overrides if o.startswith("model.name=")).split("=")[1] for network in NETWORKS.values()}
    tried = {MODELS[name].module for name in named}
    assert {spec.module for spec in MODELS.values()} - tried <= {
        "phalanx.models.backbones.inception"
    }  # as googlenet, 3x as large
