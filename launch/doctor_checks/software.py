"""Python and the packages: are those there that Phalanx needs, and which of the optional ones."""

import platform
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from phalanx.launch.doctor_checks.diagnosis import Diagnosis

_OLDEST = (3, 11)
_DEVELOPMENT = "dev"  # the extra of those who change Phalanx


def software() -> Iterator[Diagnosis]:
    said = f"Python {platform.python_version()} on {platform.system()} {platform.release()}"
    if sys.version_info < _OLDEST:
        yield Diagnosis("Python", "red", said, f"Install Python {'.'.join(map(str, _OLDEST))} or newer.")
    else:
        yield Diagnosis("Python", "green", said)
    try:
        needed = [Requirement(text) for text in metadata.requires("phalanx") or ()]
    except metadata.PackageNotFoundError:
        yield Diagnosis("packages", "yellow", "Phalanx is not installed as a package", "Run: pip install -e . in its folder.")
        return
    always = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    faults = [fault for one in always if (fault := _fault(one)) is not None]
    if faults:
        yield Diagnosis("packages", "red", "; ".join(faults), "Run: pip install --upgrade phalanx.")
    else:
        yield Diagnosis("packages", "green", ", ".join(f"{one.name} {metadata.version(one.name)}" for one in always))
    for extra in sorted(set(metadata.metadata("phalanx").get_all("Provides-Extra") or ()) - {_DEVELOPMENT}):
        own = [one for one in needed if one.marker is not None and one not in always and one.marker.evaluate({"extra": extra})]
        if lacking := [fault for one in own if (fault := _fault(one)) is not None]:
            remedy = f"If you need them: pip install 'phalanx[{extra}]'."
            yield Diagnosis(f"extra {extra}", "yellow", "; ".join(lacking), remedy)


def _fault(needed: Requirement) -> str | None:
    try:
        there = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        return f"{needed.name} is not installed"
    if needed.specifier.contains(there, prereleases=True):
        return None
    return f"{needed.name} {there} is installed, and {needed.specifier} is needed"
