"""`ade20k`: scene parsing, 150 classes; other pixels (0 in the files) are ignored.

Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017. `ROOT` is `ADEChallengeData2016`, or the folder above it:
`images/training/*.jpg`, `annotations/training/*.png`, and `validation` likewise. Names are the first ones of its
`objectInfo150.txt`.
"""

from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files.string_array import StringArray
from phalanx.data.formats.masked import MaskedImages, Meaning, refuse_missing

_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence,
desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink,
skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island,
computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight,
booth, television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet,
poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket,
waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake,
dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
monitor, bulletin board, shower, radiator, glass, clock, flag
"""
CLASSES = tuple(" ".join(name.split()) for name in _NAMES.split(","))
_FOLDERS = {"train": "training", "val": "validation"}


def open_split(config: DataConfig, split: str) -> MaskedImages:
    """The images of a split, sorted by name.

    Raises:
        UserError: if a file is missing.
    """
    root = Path(config.root or "")
    root = root / "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() else root
    folder = _FOLDERS.get(split, split)
    images = sorted(path.name for path in (root / "images" / folder).glob("[!.]*.jpg"))
    if not images:
        raise UserError(f"{root / 'images' / folder}: there are no images *.jpg in it. Check data.root and the split.")
    pairs = [(f"images/{folder}/{name}", f"annotations/{folder}/{Path(name).stem}.png") for name in images]
    refuse_missing([(root / image, root / mask) for image, mask in pairs])
    meaning = Meaning(
        {number: number - 1 for number in range(1, len(CLASSES) + 1)},
        (0, config.ignore_index),
        config.ignore_index,
        f"ADE20K has {len(CLASSES)} (1 to {len(CLASSES)}, and 0 for none)",
        "Download the file again, or use data.name=masks for your own classes.",
    )
    return MaskedImages(
        config, root, StringArray.of(i for i, _ in pairs), StringArray.of(m for _, m in pairs), CLASSES, meaning
    )
