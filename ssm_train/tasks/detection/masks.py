"""Checks of the masks in COCO annotations, in the forms in which programs write them.

pycocotools computes with whatever it is given, in C: it reads beyond a string that is cut off, fills a mask as far as
the run lengths reach, and takes memory for every pixel along the edges of a polygon.
"""

import ast
import math
import re
from collections.abc import Sequence
from operator import mul
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as codec

from ssm_train.tasks.detection.values import is_nothing, number, numbers, structure, whole

# Compressed run lengths: each number is some characters with a bit that says that more follow, and one without. Six of
# them have 30 bits.
_RUNS = re.compile(r"(?:[P-o]{0,5}[0-O])+")


class ReadMask(NamedTuple):
    """What was understood of a ``segmentation``.

    Attributes:
        mask: polygons with three points or more, or run lengths of the size of the image, with at least one pixel in
            the image; None if there is no such mask.
        stray: number of parts that were dropped although others make a mask.
    """

    mask: list[list[float]] | dict[str, Any] | None
    stray: int = 0


def read_mask(mask: Any, box: Sequence[float] | None, height: int, width: int) -> ReadMask:
    """Read a ``segmentation`` and drop the parts that pycocotools cannot decode to pixels of the image.

    Polygons may be one flat list, lists of points, or texts. Two corners are a mask if they are those of the box.

    Args:
        mask: ``segmentation`` of an annotation.
        box: left, top, width and height of the object, if they are known.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    mask = structure(mask)
    if isinstance(mask, list) and len(mask) == 1 and isinstance(mask[0], dict):
        mask = mask[0]
    if isinstance(mask, dict):
        return ReadMask(_read_run_lengths(mask, height, width))
    if not isinstance(mask, list) or not mask:
        return ReadMask(None)
    parts = [_read_polygon(part, box, height, width) for part in _parts(mask)]
    polygons = [part for part in parts if part is not None]
    return ReadMask(polygons, len(parts) - len(polygons)) if polygons else ReadMask(None)


def measure_mask(mask: list | dict, height: int, width: int) -> tuple[list[float], int]:
    """Box (left, top, width and height) and number of pixels of a mask.

    Args:
        mask: of a :class:`ReadMask`.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    code = mask
    if isinstance(mask, list):
        code = codec.merge(codec.frPyObjects(mask, height, width))
    elif isinstance(mask["counts"], list):
        code = codec.frPyObjects(mask, height, width)
    return codec.toBbox(code).tolist(), int(codec.area(code))


def are_run_lengths(mask: dict[str, Any], height: int, width: int) -> bool:
    """Whether run lengths are of the size of an image, and their sum is the number of its pixels.

    Args:
        mask: ``size``, and ``counts`` as characters or as whole numbers.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    if mask["size"] != [height, width]:
        return False
    counts = mask["counts"]
    if isinstance(counts, str):
        lengths = run_lengths(counts)
        return lengths is not None and bool((lengths >= 0).all()) and int(lengths.sum()) == height * width
    return bool(counts) and min(counts) >= 0 and sum(counts) == height * width


def is_polygon(points: Sequence[float], height: int, width: int) -> bool:
    """Whether pycocotools can draw a polygon.

    It has at least three points and reaches beyond the image by at most its width and height, and its edges are not
    longer together than those of any region of the image.

    Args:
        points: x and y of the corners in turns, finite numbers.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    if len(points) < 6 or len(points) % 2:
        return False
    x, y = points[::2], points[1::2]
    if not (-width <= min(x) and max(x) <= 2 * width and -height <= min(y) and max(y) <= 2 * height):
        return False
    # A region of the image has no longer outline than all of its pixels. Most polygons have too few points to reach it.
    longest = 4 * height * width + 6 * (height + width)
    if len(x) * 3 * max(height, width) <= longest:
        return True
    edges = np.abs(np.diff([x, y], append=[x[:1], y[:1]])).max(axis=0)
    return bool(edges.sum() <= longest)


def run_lengths(counts: str) -> np.ndarray | None:  # [count] int64
    """Decompress run lengths, see ``rleToString`` of COCO's ``maskApi.c``.

    Args:
        counts: the characters.

    Returns:
        The lengths, which can be negative or too many for an image; None if this is no sequence of numbers.
    """
    if not _RUNS.fullmatch(counts):
        return None
    digits = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits < 32)
    sizes = np.diff(ends, prepend=-1)
    starts = ends + 1 - sizes
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, sizes))
    lengths = np.add.reduceat((digits & 31) << shifts, starts)
    lengths -= np.where(digits[ends] & 16, 1 << (5 * sizes), 0)  # the sign
    # From the fourth on, a number is the difference from the one before the last.
    lengths[1::2] = lengths[1::2].cumsum()
    lengths[2::2] = lengths[2::2].cumsum()
    return lengths


def _read_run_lengths(mask: dict[str, Any], height: int, width: int) -> dict[str, Any] | None:
    size, counts = mask.get("size"), mask.get("counts")
    sides = [height, width] if is_nothing(size) else numbers(size)
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):  # as Python prints bytes
        try:
            counts = ast.literal_eval(counts).decode()
        except (ValueError, SyntaxError):
            return None
    # Characters of run lengths can begin like a list.
    if not isinstance(counts, str) or run_lengths(counts) is None:
        listed = structure(counts)
        counts = [whole(length) for length in listed] if isinstance(listed, list) else [None]
        if None in counts:
            return None
    read = {"size": sides, "counts": counts}
    if not are_run_lengths(read, height, width):
        return None
    inside = run_lengths(counts)[1::2] if isinstance(counts, str) else counts[1::2]
    return {"size": [height, width], "counts": counts} if sum(inside) else None


def _parts(mask: list) -> list:
    """The polygons in a list of numbers, of points, of polygons or of lists of points."""
    parts = [structure(part) for part in mask]
    lists = [part for part in parts if isinstance(part, list)]
    if not lists or (len(lists) == len(parts) >= 3 and all(_is_point(part) for part in parts)):
        return [parts]
    return parts


def _read_polygon(part: Any, box: Sequence[float] | None, height: int, width: int) -> list[float] | None:
    if not isinstance(part, list):
        return None
    if part and all(isinstance(point, list) and _is_point(point) for point in part):
        part = [value for point in part for value in point]
    points = _as_numbers(part)
    if points is not None and len(points) == 4 and box is not None:
        points = _rectangle(points, box)
    if points is None or not is_polygon(points, height, width):
        return None
    return points if _has_pixels(points, height, width) else None


def _is_point(values: list) -> bool:
    return len(values) == 2 and all(number(value) is not None for value in values)


def _as_numbers(part: list) -> list[float] | None:
    try:
        if math.isfinite(sum(part)):
            return part
    except (TypeError, OverflowError):  # texts, or larger than any number of pixels
        pass
    return numbers(part)


def _rectangle(corners: Sequence[float], box: Sequence[float]) -> list[float] | None:
    """The polygon of a box, if four numbers are that box or its corners, to a pixel."""
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    for expected in (box, (left, top, right, bottom)):
        if max(abs(a - b) for a, b in zip(corners, expected, strict=True)) <= 1:
            return [left, top, right, top, right, bottom, left, bottom]
    return None


def _has_pixels(points: Sequence[float], height: int, width: int) -> bool:
    x, y = points[::2], points[1::2]
    least_x, most_x, least_y, most_y = min(x), max(x), min(y), max(y)
    area = abs(sum(map(mul, x, [*y[1:], y[0]])) - sum(map(mul, y, [*x[1:], x[0]]))) / 2
    # Inside of the image and on average at least a pixel wide. Only other polygons have to be drawn.
    inside = min(least_x, least_y) >= 0 and most_x <= width and most_y <= height
    if inside and area >= most_x - least_x + most_y - least_y:
        return True
    return int(codec.area(codec.merge(codec.frPyObjects([points], height, width)))) > 0
