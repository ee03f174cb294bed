"""A round: so many inputs of a target, the same ones for the same seed."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.case import Case
from tests.fuzz.law import Answer
from tests.fuzz.targets.target import Target


@dataclass
class Count:
    """What became of the inputs of a target.

    Attributes:
        kinds: findings by kind.
        first: of each kind, the shortest input and its answer.
    """

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    findings: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[Case, Answer]] = field(default_factory=dict)

    def add(self, case: Case, answer: Answer) -> None:
        self.inputs += 1
        self.accepted += answer.outcome == "accepted"
        self.refused += answer.outcome == "refused"
        if answer.outcome == "finding":
            self.findings += 1
            self.kinds[answer.kind] += 1
            known = self.first.get(answer.kind)
            if known is None or len(case.dumps()) < len(known[0].dumps()):
                self.first[answer.kind] = case, answer


def run(target: Target, number: int, inputs: int, ask: Callable[[Case], Answer], count: Count) -> None:
    """Tries inputs.

    Args:
        number: of the seed.
        ask: gives the answer to a case.
        count: is added to.
    """

    @seed(number)
    @settings(
        max_examples=inputs, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(target.cases())
    def try_all(case: Case) -> None:
        count.add(case, ask(case))

    try_all()
