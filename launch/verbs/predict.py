"""phalanx predict RUN IMAGE|FOLDER|PATTERN ... -o DIR [evaluate.key=value ...] [--step N | --best] [--json]"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, UserError
from phalanx.configs.load import load
from phalanx.dist.checkpoint.tools import choose
from phalanx.launch.arguments import Parser, add_which
from phalanx.launch.importing import importing


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx predict", description="Runs a network on images; writes JSON and pictures.")
    parser.add_argument("run", metavar="RUN", help="the run directory")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES | evaluate.key=value",
        help="files, folders, patterns such as 'photos/*.jpg'; and keys of test-time augmentation",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="folder for predictions.json and the pictures")
    add_which(parser)
    parser.add_argument(
        "--probabilities", action="store_true", help="segmentation: write the probability of every class at every pixel"
    )
    parser.add_argument("--json", action="store_true", help="print predictions.json too")
    given = parser.parse_intermixed_args(arguments)
    if given.output is None:
        raise UserError("predict needs -o DIR, the folder for predictions.json and the pictures.")
    run = choose.run_at(given.run)
    if given.best:
        chosen = choose.best(run)
    elif given.step is not None:
        chosen = choose.of_step(run, given.step)
    else:
        chosen = choose.newest_checkpoint(run)
    for step, problem in chosen.skipped:
        print(f"phalanx: the checkpoint of step {step} was skipped: {problem}", file=sys.stderr)

    with importing():
        from phalanx.train.evaluation.predict import predict

    keys = [word for word in given.images if word.startswith("evaluate.") and "=" in word]
    images = [word for word in given.images if word not in keys]
    if not images:
        raise UserError("predict needs images: files, folders, or patterns such as 'photos/*.jpg'.")
    config = run.read_config()
    if keys:
        config = load([], keys, base=config.model_dump(mode="json"))
    results = predict(config, chosen.path, images, Path(given.output), _tell, given.probabilities)
    if given.json:
        print(json.dumps(results))
    broken = [result for result in results if "error" in result]
    for result in broken:
        print(f"phalanx: {result['file']}: {result['error']}", file=sys.stderr)
    done = f"{len(results) - len(broken)} of {len(results)} images predicted; results are in {given.output}"
    print(f"phalanx: {done}" if given.json else done, file=sys.stderr if given.json else sys.stdout)
    return ExitCode.BAD_INPUT if broken else ExitCode.DONE


def _tell(count: int, total: int) -> None:
    """Shows the progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{count} of {total} images" if count < total else "\r\033[K", end="", file=sys.stderr, flush=True)
