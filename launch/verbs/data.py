"""phalanx data CONFIG.yaml [MORE.yaml ...] [key=value ...] [--split train|val] [--count N] [-o sheet.png] [--anchors]
[--json]
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, UserError
from phalanx.launch.arguments import Parser, add_config, positive, recipe


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx data", description="Makes a contact sheet of what the network sees, and counts the classes.")
    add_config(parser)
    parser.add_argument(
        "--split", choices=("train", "val"), default="train", help="the split to show (default: train, with augmentation)"
    )
    parser.add_argument("--count", type=positive, default=32, metavar="N", help="samples on the sheet (default: 32)")
    parser.add_argument(
        "-o", "--output", default="sheet.png", metavar="FILE.png", help="file of the sheet (default: sheet.png)"
    )
    parser.add_argument("--anchors", action="store_true", help="fit the anchors of YOLOv3 and v5 to the boxes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_intermixed_args(arguments)
    config, output = recipe(given.config), Path(given.output)
    _check(output)
    from phalanx.data.inspect.fitted_anchors import fitted_anchors
    from phalanx.data.inspect.overview import overview
    from phalanx.data.open import open_split
    from phalanx.models import registry
    from phalanx.train.setup import build
    from phalanx.train.setup.same_data import changes

    if given.anchors and given.split != "train":
        raise UserError("--anchors fits to the training split. Leave out --split val.")
    dataset = open_split(config.data, given.split, config.seed)
    for sentence in changes(config, given.split, dataset):
        print(f"phalanx: {sentence}", file=sys.stderr)
    try:
        statistics = build.statistics(config, dataset.channels)
    except (registry.BadOption, registry.UnknownModel) as error:
        raise UserError(str(error)) from None
    found = overview(config, dataset, given.split, given.count, statistics)
    fitted = fitted_anchors(config, dataset, statistics) if given.anchors else None
    found.picture.save(output)
    if given.json:
        anchors = {} if fitted is None else {"anchors": fitted.to_json()}
        print(json.dumps(found.to_json() | anchors | {"sheet": str(output)}))
    else:
        print("\n".join([*found.lines(), *([] if fitted is None else ["", *fitted.lines()]), "", str(output)]))
    return ExitCode.DONE


def _check(output: Path) -> None:
    """Refuses an output that cannot be written, before the work."""
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"-o {output}: a picture needs the suffix .png, .jpg or .webp. Name one, such as sheet.png.")
    if not output.parent.is_dir():
        raise UserError(f"-o {output}: there is no folder {output.parent}. Make it, or name another.")
