"""phalanx report RUN... [-o FILE.html]"""

from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, UserError, printable
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx report",
        description="Writes a run, or several side by side, as one HTML page that needs no network: summary, curves, results "
        "by class, predictions, where the time went, events, recipe.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE.html",
        help="the page (default: report.html in the run directory; of several runs, here)",
    )
    given = parser.parse_args(arguments)
    runs = list(dict.fromkeys(given.runs))
    output = Path(given.output) if given.output else (Path(runs[0]) if len(runs) == 1 else Path()) / "report.html"
    if output.suffix not in (".html", ".htm"):
        raise UserError(f"-o {output}: the report is an HTML page. Give a name that ends with .html.")
    from phalanx.launch.run_report.written import write_report

    write_report([RunDirectory(Path(run)) for run in runs], output)
    print(printable(str(output)))
    return ExitCode.DONE
