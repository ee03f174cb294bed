"""Doors that break the law, to show that the fuzzer sees it."""

import os
import signal
import warnings
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.case import Case
from tests.fuzz.law import Refused
from tests.fuzz.targets.target import Target

FAULTS = ["traceback", "dies", "memory", "parser", "silent", "object", "control", "endless", "warning", "exits"]


def _door(case: Case, _: Path) -> None:
    if case.given == "traceback":
        raise KeyError("a")
    if case.given == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    if case.given == "exits":
        os._exit(0)
    if case.given == "memory":
        bytearray(40 << 30)
    if case.given == "warning":
        warnings.warn("overflow encountered in cast", RuntimeWarning, stacklevel=1)
    words = {
        "parser": "a.yaml: mapping values are not allowed here.",
        "silent": "",
        "object": "a is <object object at 0x7f00>.",
        "control": "a\x1b[2J is wrong.",
        "endless": "a" * 3_000,
        "refused": "a.yaml:3: train.steps=-1 is not allowed. Set a number above zero.",
    }
    if case.given in words:
        raise Refused(words[case.given])


TARGETS = [Target("faulty", "", 0, lambda: st.builds(Case, st.just("faulty")), _door)]
