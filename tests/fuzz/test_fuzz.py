"""Every input is accepted, or refused with a sentence. `python -m tests.fuzz` tries more of them: docs/hardening.md."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import rounds
from tests.fuzz.case import FOLDER, Case
from tests.fuzz.targets import TARGETS, runs
from tests.fuzz.targets.faulty import FAULTS
from tests.fuzz.worker import Worker


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    answers = Worker()
    yield answers
    answers.close()


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_is_accepted_or_refused_with_a_sentence(worker: Worker, name: str) -> None:
    count = rounds.Count()
    rounds.run(TARGETS[name], 1, TARGETS[name].inputs, worker.ask, count)
    shown = [f"{kind} ({count.kinds[kind]} times): {answer.said}" for kind, (_, answer) in count.first.items()]
    assert not shown, "\n\n".join(shown)
    assert count.accepted and count.refused  # else the inputs do not get past the first look, or nothing is wrong with them


def test_whatever_breaks_the_law_is_a_finding_and_the_next_input_is_answered(worker: Worker) -> None:
    for fault in FAULTS:
        assert worker.ask(Case("faulty", given=fault)).outcome == "finding", fault
        assert worker.ask(Case("faulty", given="refused")).outcome == "refused"
    assert worker.ask(Case("faulty", given="dies")).kind == "killed by SIGSEGV"
    assert worker.ask(Case("faulty")).outcome == "accepted"


def test_an_input_is_kept_as_it_was_and_the_same_seed_tries_the_same(tmp_path: Path) -> None:
    case = Case("coco", {"a/\udc80": b"\xff\0", "b": FOLDER, "../c": b"", "d\0": b""}, [float("inf"), "\ud800"])
    assert Case.loads(case.dumps()) == case
    said = Case("coco", {"a": "Küche".encode("utf-16")}, "given")
    assert said.holds("Küche") and said.holds("given") and not said.holds("Kuche")
    case.lay_out(tmp_path / "x")
    assert sorted(path.name for path in (tmp_path / "x").rglob("*")) == ["a", "b", "\udc80"] and list(tmp_path.iterdir()) == [
        tmp_path / "x"
    ]
    tried: list[list[str]] = [[], []]
    for texts in tried:

        def note(case: Case, texts: list[str] = texts) -> rounds.Answer:
            texts.append(case.dumps())
            return rounds.Answer("accepted")

        rounds.run(TARGETS["yolo"], 3, 20, note, rounds.Count())
    assert tried[0] == tried[1] and len(set(tried[0])) > 10


def test_files_of_a_run_that_are_nested_without_end_are_refused_or_skipped(worker: Worker) -> None:
    """Python's reader of JSON ends with another error there than for all else that is wrong."""
    deep, whole = b'{"a":' * 100_000, {f"runs/fuzzed/{file}": content for file, content in runs.whole().items()}
    for name, asked in (("data.json", "record"), ("run.json", "resume"), ("errors/rank-0.json", "logs")):
        answer = worker.ask(Case("runs", whole | {f"runs/fuzzed/{name}": deep}, asked))
        assert answer.outcome in ("accepted", "refused"), answer.said
