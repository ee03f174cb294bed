"""phalanx predict RUN|FILE IMAGE|FOLDER|PATTERN ... -o DIR [evaluate.key=value ...] [--step N | --best] [--csv] [--coco]"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, UserError
from phalanx.configs.load import load
from phalanx.configs.tasks import DETECTION
from phalanx.dist.checkpoint.tools import choose
from phalanx.dist.storage.durable_files import read_json_object, write_atomically, write_json
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import Parser, add_which, asked_checkpoint
from phalanx.launch.importing import importing


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx predict", description="Runs a network on images; writes JSON and pictures.")
    parser.add_argument("run", metavar="RUN | FILE", help="the run directory, or a described file of weights (.safetensors)")
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
    parser.add_argument("--csv", action="store_true", help="write predictions.csv too: a row per object, class or label")
    parser.add_argument(
        "--coco", action="store_true", help="detection: write the objects as COCO's annotations, coco.json, too"
    )
    parser.add_argument("--json", action="store_true", help="print predictions.json too")
    given = parser.parse_intermixed_args(arguments)
    if given.output is None:
        raise UserError("predict needs -o DIR, the folder for predictions.json and the pictures.")
    source = Path(given.run)
    if source.is_file() and (given.best or given.step is not None):
        raise UserError(f"{source}: a file holds one network. Leave out --best and --step, or give the run.")
    run = None if source.is_file() else choose.run_at(given.run)
    weights = source if run is None else asked_checkpoint(run, given)

    with importing():
        from phalanx.train.evaluation import prediction_tables
        from phalanx.train.evaluation.described_file import described
        from phalanx.train.evaluation.predict import predict

    keys = [word for word in given.images if word.startswith("evaluate.") and "=" in word]
    images = [word for word in given.images if word not in keys]
    if not images:
        raise UserError("predict needs images: files, folders, or patterns such as 'photos/*.jpg'.")
    config, data = described(source) if run is None else (run.read_config(), None)
    if keys:
        config = load([], keys, base=config.model_dump(mode="json"))
    if given.coco and config.task.name not in DETECTION:
        raise UserError(f"--coco is for task.name={' or '.join(DETECTION)}, and this one is {config.task.name}. Leave it out.")
    output = Path(given.output)
    results = predict(config, weights, images, output, _tell, given.probabilities, data)
    if given.csv:
        write_atomically(output / "predictions.csv", prediction_tables.to_csv(results))
    if given.coco:
        classes = data.facts.classes if data is not None else _classes(run)
        write_json(output / "coco.json", prediction_tables.to_coco(results, classes))
    if given.json:
        print(json.dumps(results))
    broken = [result for result in results if "error" in result]
    for result in broken:
        print(f"phalanx: {result['file']}: {result['error']}", file=sys.stderr)
    what = prediction_tables.found(results, config.evaluate.shown)
    done = f"{len(results) - len(broken)} of {len(results)} images predicted; results are in {given.output}" + (
        f"\n{what}" if what else ""
    )
    print(f"phalanx: {done}" if given.json else done, file=sys.stderr if given.json else sys.stdout)
    return ExitCode.BAD_INPUT if broken else ExitCode.DONE


def _classes(run: RunDirectory | None) -> list[str] | None:
    """As the run has recorded them; None for a run that began before it did."""
    if run is None or not run.data.exists():
        return None
    return [str(name) for name in read_json_object(run.data)["classes"]]


def _tell(count: int, total: int) -> None:
    """Shows the progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{count} of {total} images" if count < total else "\r\033[K", end="", file=sys.stderr, flush=True)
