"""Checks of the masks in COCO annotations.

pycocotools computes with whatever it is given, in C: it reads beyond a string that is cut off, fills a mask as far as
the run lengths reach, and takes memory for every pixel along the edges of a polygon.
"""

import math
import re
from typing import Any

import numpy as np

# Compressed run lengths: each number is some characters with a bit that says that more follow, and one without. Six of
# them have 30 bits.
_RUNS = re.compile(r"(?:[P-o]{0,5}[0-O])+")


def is_mask(mask: Any, height: int, width: int) -> bool:
    """Whether a mask is one that pycocotools can decode to the pixels of an image.

    It is a list of polygons, or run lengths of the size of the image whose sum is the number of its pixels. A polygon
    has at least three points, reaches beyond the image by at most its width and height, and its edges are not longer
    together than those of any region of the image.

    Args:
        mask: ``segmentation`` of an annotation.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    try:
        if isinstance(mask, list):
            return bool(mask) and all(_is_polygon(points, height, width) for points in mask)
        if not isinstance(mask, dict) or not _are_whole(mask.get("size")) or mask["size"] != [height, width]:
            return False
        counts = mask.get("counts")
        if isinstance(counts, str):
            lengths = run_lengths(counts)
            return lengths is not None and bool((lengths >= 0).all()) and int(lengths.sum()) == height * width
        return _are_whole(counts) and min(counts) >= 0 and sum(counts) == height * width
    except (TypeError, OverflowError):  # not numbers, or larger than any number of pixels
        return False


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


def _are_whole(numbers: Any) -> bool:
    return isinstance(numbers, list) and bool(numbers) and all(type(n) is int for n in numbers)


def _is_polygon(points: Any, height: int, width: int) -> bool:
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2 or not math.isfinite(sum(points)):
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
