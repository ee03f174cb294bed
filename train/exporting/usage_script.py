"""A short script that uses an exported network with numpy and Pillow, without Phalanx."""

import json
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data.images.image_formats import known_formats
from phalanx.data.transforms.fit import Fill, evaluated, seen_size
from phalanx.train.evaluation.predict import Predictor
from phalanx.train.exporting.exportable import Exportable

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

_FIT = {
    "stretch": """\
image = image.resize((WIDTH, HEIGHT), Image.{how})
left, top, x_ratio, y_ratio = 0, 0, WIDTH / width, HEIGHT / height
""",
    "pad": """\
ratio = min(WIDTH / width, HEIGHT / height)
inner = image.resize((max(1, {whole}(width * ratio)), max(1, {whole}(height * ratio))), Image.{how})
left, top, x_ratio, y_ratio = {left}, {top}, inner.width / width, inner.height / height
image = Image.new({mode!r}, (WIDTH, HEIGHT), {fill})
image.paste(inner, (left, top))
""",
    "crop": """\
ratio = max(WIDTH / width, HEIGHT / height) / {share}
inner = image.resize((max(WIDTH, round(width * ratio)), max(HEIGHT, round(height * ratio))), Image.{how})
left, top = (WIDTH - inner.width) // 2, (HEIGHT - inner.height) // 2
x_ratio, y_ratio = inner.width / width, inner.height / height
image = inner.crop((-left, -top, WIDTH - left, HEIGHT - top))
""",
}
_RUN = {
    ".onnx": (
        "onnxruntime",
        'outputs = onnxruntime.InferenceSession({name!r}).run(None, {{"image": pixels}})',
    ),
    ".pt2": (
        "torch",
        "found = torch.export.load({name!r}).module()(torch.from_numpy(pixels))\n"
        "outputs = [each.detach().numpy() for each in (found if isinstance(found, tuple) else (found,))]",
    ),
}
_SHOWN = {
    ("probabilities",): """\
for label in outputs[0][0].argsort()[::-1][:5]:
    print(f"{outputs[0][0][label]:.4f}  {CLASSES[label]}")
""",
    ("logits",): """\
mask = outputs[0][0].argmax(axis=0)  # [HEIGHT, WIDTH], the class of each pixel
for label in numpy.unique(mask):
    print(f"{(mask == label).mean():.4f}  {CLASSES[label]}")
""",
    ("boxes", "scores", "labels"): """\
for box, score, label in zip(*outputs):  # boxes of the input, and of the image
    place = (box - [left, top, left, top]) / [x_ratio, y_ratio, x_ratio, y_ratio]
    print(f"{score:.4f}  {CLASSES[label]}  {place.round(1).tolist()}")
""",
}


_FIRST = '"""Uses '
_WROTE = "which `phalanx export` wrote"


def refuse_other(path: Path) -> None:
    """Refuses to overwrite a script that is none of these.

    Raises:
        UserError: if there is one.
    """
    if path.exists():
        first = path.read_bytes()[:1000].decode(errors="replace").partition("\n")[0] if path.is_file() else ""
        if not (first.startswith(_FIRST) and _WROTE in first):
            raise UserError(f"{path}: `export` did not write this file, and would overwrite it. Choose another name with -o.")


def script(name: str, model: Exportable, asked: Predictor, config: RunConfig) -> str:
    """The script for a file of that name, beside it."""
    suffix = name[name.rindex(".") :]
    package, run = _RUN[suffix]
    seen = evaluated(config.data, config.evaluate)
    height, width = seen_size(seen)
    mode = _MODES.get(asked.channels, "RGB")
    corner = seen.pad == "right_below"
    colour = Fill(seen.fill or asked.pipeline.mean, 0)
    fill = tuple(round(255 * level) for level in colour.colour)
    fit = _FIT.get(seen.fit, _FIT["stretch"]).format(
        left="0" if corner else "(WIDTH - inner.width) // 2",
        top="0" if corner else "(HEIGHT - inner.height) // 2",
        mode=mode,
        whole="int" if seen.size_rounding == "down" else "round",
        how=seen.interpolation.upper(),
        fill=fill if len(fill) > 1 else fill[0],
        share=seen.crop_share,
    )
    shown = _SHOWN.get(model.names, "print(outputs[0])\n")
    return (
        f'{_FIRST}{name}, {_WROTE}: python {name.removesuffix(suffix)}.py IMAGE"""\n\n'
        f"import sys\n\nimport numpy\nimport {package}\nfrom PIL import Image\n\n"
        f"CLASSES = {json.dumps(list(asked.classes), ensure_ascii=False)}\n"
        f"HEIGHT, WIDTH = {height}, {width}\n"
        f"FORMATS = {json.dumps(list(known_formats()))}  # Pillow knows more, some of them not safe\n\n"
        f"image = Image.open(sys.argv[1], formats=FORMATS).convert({mode!r})\n"
        f"width, height = image.size\n{fit}"
        "pixels = numpy.asarray(image, numpy.float32).reshape(HEIGHT, WIDTH, -1).transpose(2, 0, 1)[None] / 255\n"
        f"{run.format(name=name)}\n{shown}"
    )
