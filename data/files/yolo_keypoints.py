"""Whether lines of YOLO's beyond a box hold keypoints or a polygon, where `data.yaml` does not say. No torch here.

A line of a class and 4 + 2k or 4 + 3k numbers is a box with k keypoints, of two numbers or of three, the third whether it is
visible; one of an even count may be a polygon as well. Lines are taken for keypoints only where all of a file set are of one
length, and each begins with a box that lies in its image and holds all points after it.
"""

from collections.abc import Iterable, Sequence

from phalanx.data.files.values import number

_BOX = 4  # numbers
_BEYOND = 0.01  # shares: annotations are rounded
_VISIBLE = (0.0, 1.0, 2.0)  # not labelled, hidden, visible (cocodataset.org/#format-data)


def values_after_box(lines: Iterable[str]) -> int:
    """How many numbers of keypoints every line has after its box; 0 where some line is another. Reads no further than that.

    Args:
        lines: those of all label files, which are not empty.
    """
    length, kinds = None, {2, 3}
    for line in lines:
        found = [number(value) for value in line.split()[1:]]
        numbers = [value for value in found if value is not None]
        if len(numbers) < len(found) or len(numbers) < _BOX + 2 or length not in (None, len(numbers)):
            return 0
        length = len(numbers)
        kinds = {each for each in kinds if _are_keypoints(numbers, each)}
        if not kinds:
            return 0
    return 0 if length is None else length - _BOX


def _are_keypoints(numbers: Sequence[float], each: int) -> bool:
    x, y, width, height = numbers[:_BOX]
    rest = numbers[_BOX:]
    if len(rest) % each or (each == 3 and not set(rest[2::3]) <= set(_VISIBLE)):
        return False
    sides = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    within = width > 0 and height > 0 and min(sides) >= -_BEYOND and max(sides) <= 1 + _BEYOND
    points = [point for point in zip(rest[::each], rest[1::each], strict=True) if point != (0, 0)]  # what is not labelled
    holds = all(abs(a - x) <= width / 2 + _BEYOND and abs(b - y) <= height / 2 + _BEYOND for a, b in points)
    return within and (holds or each == 3)  # a third number that is always 0, 1 or 2 leaves no doubt
