"""The report that a run writes when it has ended."""

import sys

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist.storage.run_directory import RunDirectory


def report_of(config: RunConfig) -> None:
    """Writes `report.html` into the run directory, unless it is newer. If that fails, the run is done all the same."""
    run = RunDirectory.of(config)
    output = run.path / "report.html"
    try:
        if output.exists() and output.stat().st_mtime >= run.events.stat().st_mtime:
            return
        from phalanx.launch.run_report.written import write_report

        write_report([run], output)
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(f"phalanx: the run is done, but its report was not written: {said}", file=sys.stderr, flush=True)
