"""Places for the labels of objects, apart from each other and from what they would hide."""

from collections.abc import Sequence

import numpy as np

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom in pixels
_HIDDEN = 0.3  # the largest share of any object's box that a label may hide


def place_labels(
    boxes: Sequence[Sequence[float]] | np.ndarray,  # [N, 4] left, top, right, bottom
    sizes: Sequence[tuple[int, int]],  # width and height of each label
    picture: tuple[int, int],
) -> list[Rectangle | None]:
    """Find a place at its object for each label, in the order of the objects.

    A place is at one of the corners of the box, outside it or inside. No label overlaps another one, leaves the
    picture, or hides more than three tenths of any box. Of such places, the one that hides least is taken.

    Args:
        boxes: the boxes of the objects. Those that come first have their choice first.
        sizes: of the labels, in pixels.
        picture: height and width of the picture.

    Returns:
        The place of each label; None for a label that has none.
    """
    edges = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    areas = np.maximum((edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1]), 1.0)
    taken = np.empty((0, 4))
    places: list[Rectangle | None] = []
    for box, (width, height) in zip(edges, sizes, strict=True):
        free = _candidates(box, width, height, picture)
        hidden = _overlaps(free, edges) / areas
        fits = (_overlaps(free, taken) == 0).all(1) & (hidden <= _HIDDEN).all(1)
        if width > picture[1] or height > picture[0] or not fits.any():
            places.append(None)
            continue
        best = free[np.flatnonzero(fits)[hidden[fits].sum(1).argmin()]]
        taken = np.concatenate([taken, best[None]])
        left, top, right, bottom = best.astype(int).tolist()
        places.append((left, top, right, bottom))
    return places


def _candidates(box: np.ndarray, width: int, height: int, picture: tuple[int, int]) -> np.ndarray:  # [10, 4]
    """Places for a label at a box, those that readers expect first, moved into the picture."""
    left, top, right, bottom = box.round()
    corners = [
        (left, top - height), (left, bottom), (right - width, top - height), (right - width, bottom),
        (right, top), (left - width, top), (right, bottom - height), (left - width, bottom - height),
        (left, top), (right - width, bottom - height),
    ]  # fmt: skip
    start = np.array(corners).clip(0, np.maximum([picture[1] - width, picture[0] - height], 0))
    return np.concatenate([start, start + np.array([width, height])], axis=1)


def _overlaps(
    some: np.ndarray,  # [M, 4]
    others: np.ndarray,  # [N, 4]
) -> np.ndarray:  # [M, N]
    """The areas that rectangles share."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(0).prod(2)
