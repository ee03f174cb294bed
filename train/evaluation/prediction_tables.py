"""Predictions of many images as CSV, as COCO's annotations, and in one line for a person."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]  # of an image, as predictions.json has it
_BOX = ("left", "top", "right", "bottom")
_MOST_NAMES = 8


def to_csv(results: Sequence[Result]) -> str:
    """A row per object, per class of a mask, per label, or per image; an image of which nothing was found has none.

    Columns that no row has are left out. Images that could not be read have the column `error`.
    """
    rows = [{"file": result["file"], **row} for result in results for row in _rows(result)]
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["file"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(result: Result) -> Iterator[dict[str, Any]]:
    if "error" in result:
        yield {"error": result["error"]}
    elif "objects" in result:
        for one in result["objects"]:
            yield {"label": one["label"], "score": one["score"], **dict(zip(_BOX, one["box"], strict=True))}
    elif "classes" in result:
        for one in result["classes"]:
            yield {"label": one["label"], "pixels": one["pixels"], "share": one["share"]}
    elif "there" in result:
        for one in result["there"]:
            yield {"label": one["label"], "probability": one["probability"]}
    else:
        yield {key: value for key, value in result.items() if isinstance(value, str | int | float) and key not in _OF_IMAGE}


_OF_IMAGE = ("file", "picture", "class", "width", "height")


def to_coco(results: Sequence[Result], classes: Sequence[str] | None) -> dict[str, Any]:
    """COCO's annotations with a `score` each, such as a labelling tool reads. Class n has the id n + 1.

    Args:
        classes: names of all; None: those that were found.
    """
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, result in enumerate((one for one in results if "error" not in one), 1):
        images.append({"id": number, "file_name": result["file"], "width": result["width"], "height": result["height"]})
        for one in result["objects"]:
            left, top, right, bottom = one["box"]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": one["class"] + 1, "score": one["score"]}
            entry |= {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top), "iscrowd": 0}
            annotations.append(entry | ({"segmentation": one["segmentation"]} if "segmentation" in one else {}))
    known = dict(enumerate(classes)) if classes is not None else _found_classes(results)
    categories = [{"id": number + 1, "name": name} for number, name in sorted(known.items())]
    return {"images": images, "categories": categories, "annotations": annotations}


def _found_classes(results: Sequence[Result]) -> dict[int, str]:
    return {one["class"]: one["label"] for result in results for one in result.get("objects", ())}


def found(results: Sequence[Result], shown: float) -> str:
    """What was found in all images, the most frequent first; empty if there is nothing to say.

    Args:
        shown: lowest score of an object that counts.
    """
    counts: Counter[str] = Counter()
    for result in results:
        if "objects" in result:
            counts.update(one["label"] for one in result["objects"] if one["score"] >= shown)
        elif "classes" in result:
            counts.update(one["label"] for one in result["classes"])
        elif "there" in result:
            counts.update(one["label"] for one in result["there"])
        elif "label" in result:
            counts[result["label"]] += 1
    if not counts:
        return f"nothing with a score of {shown:g} or more" if any("objects" in result for result in results) else ""
    listed = ", ".join(f"{count} × {label}" for label, count in counts.most_common(_MOST_NAMES))
    unit = "" if any("objects" in result for result in results) else "images with: "
    return unit + listed + (f", and {len(counts) - _MOST_NAMES} more classes" if len(counts) > _MOST_NAMES else "")
