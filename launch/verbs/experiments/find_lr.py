"""phalanx find-lr CONFIG.yaml [MORE.yaml ...] [key=value ...] [--steps N] [--from LR] [--to LR] [--plot FILE] [--nproc N]"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, UserError
from phalanx.launch.arguments import Parser, add_config, add_nproc, positive, recipe


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a learning rate above 0")
    return value


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx find-lr",
        description="Learning rate finder: trains some steps while the learning rate rises exponentially, and says where the "
        "loss falls fastest (Smith, WACV 2017, arXiv:1506.01186). Nothing of the run is kept.",
    )
    add_config(parser)
    parser.add_argument("--steps", type=positive, default=100, metavar="N", help="steps, at least 10 (default: 100)")
    parser.add_argument("--from", dest="first", type=_rate, default=1e-6, metavar="LR", help="first rate (default: 1e-6)")
    parser.add_argument("--to", dest="last", type=_rate, default=10.0, metavar="LR", help="last rate (default: 10)")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the loss over the learning rate")
    add_nproc(parser)
    given = parser.parse_intermixed_args(arguments)
    if given.steps < 10 or given.first >= given.last:
        raise UserError("--steps must be at least 10, and --from below --to.")
    config = recipe(given.config)
    from phalanx.train.optim.range_test import range_test, suggestion
    from phalanx.train.pictures.line_chart import Line, line_chart

    with tempfile.TemporaryDirectory(prefix="phalanx-find-lr-") as folder:
        found = range_test(given.config, Path(folder), given.steps, given.first, given.last, given.nproc)
    says = suggestion(found)
    if given.plot:
        lines = [
            Line("loss", [one.rate for one in found], [one.loss for one in found]),
            Line("smoothed", [one.rate for one in says.smoothed], [one.loss for one in says.smoothed]),
        ]
        picture = line_chart(lines, f"{config.name}: learning rate range test", "learning rate", "training loss", log_x=True)
        try:
            picture.save(given.plot, format="PNG")
        except OSError as error:
            raise UserError(f"--plot {given.plot}: {error.strerror}. Name a file that can be written.") from None
    print(f"{len(found)} steps, learning rate {found[0].rate:.3g} to {found[-1].rate:.3g}")
    print(f"loss falls fastest at {says.steepest:.2g}, is lowest at {says.lowest:.2g}")
    print(f"optim.lr={says.steepest:.1g}")
    return ExitCode.DONE
