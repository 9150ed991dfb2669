"""Drawings of what the scans of a model saw, over the image; and learning curves. Matplotlib, no model code.

A map of H×W tokens lies over the image: token (i, j) covers a rectangle of it, whatever the image's size.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.patches import Rectangle

QUADRANT_COLOUR = "#d62728"
TREE_COLOUR = "#ff7f0e"


def show_image(
    axes: Axes,
    image: np.ndarray,  # [H, W, 3] or [H, W], 0 … 1
    title: str = "",
) -> None:
    """Draw the image without axes."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=8)


def draw_tree(
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    parent: np.ndarray,  # [H·W], a root is its own parent
    height: int,
    width: int,
    title: str = "",
) -> None:
    """Draw a spanning tree of the token map over its image; the root is a dot.

    Args:
        axes: where to draw.
        image: the image under the tree.
        parent: each token's parent.
        height: rows of the token map.
        width: columns of the token map.
        title: a caption.
    """
    show_image(axes, image, title)
    scale = np.array([image.shape[1] / width, image.shape[0] / height])
    vertex = np.arange(height * width)
    places = (np.stack([vertex % width, vertex // width], axis=1) + 0.5) * scale - 0.5
    child = vertex[parent != vertex]
    segments = np.stack([places[child], places[parent[child]]], axis=1)
    axes.add_collection(LineCollection(segments, colors=TREE_COLOUR, linewidths=1.2))
    axes.plot(*places[parent == vertex].T, "o", color=TREE_COLOUR, markersize=3)


def draw_quadrants(
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    height: int,
    width: int,
    choice: int | None,
    shift: tuple[int, int] = (0, 0),
    score: np.ndarray | None = None,  # [H, W]
    title: str = "",
) -> None:
    """Draw the quadrants of the token map over its image, the chosen one split in four; a score as a haze.

    Args:
        axes: where to draw.
        image: the image under the partition.
        height: rows of the token map.
        width: columns of the token map.
        choice: the quadrant that is split again; None for none.
        shift: the partition lies over the map rolled by this much, so its windows wrap around the image.
        score: how informative each token is.
        title: a caption.
    """
    show_image(axes, image, title)
    rows, columns = image.shape[:2]
    if score is not None:
        extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
        axes.imshow(score, cmap="viridis", alpha=0.45, extent=extent, interpolation="nearest")
    for window in windows(height, width, choice):
        patches = [
            Rectangle((left * columns / width - 0.5, top * rows / height - 0.5), w * columns / width, h * rows / height)
            for top, left, h, w in unrolled(window.bounds, height, width, shift)
        ]
        colour = QUADRANT_COLOUR if window.chosen else "white"
        axes.add_collection(
            PatchCollection(
                patches, facecolors="none", edgecolors=colour, linewidths=1.5, zorder=3 if window.chosen else 2
            )
        )
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)


Bounds = tuple[int, int, int, int]  # top, left, height, width


class Window(NamedTuple):
    """One window of the partition: its bounds in the rolled map, and whether it lies in the chosen quadrant."""

    bounds: Bounds
    chosen: bool


def _quarter(bounds: Bounds) -> list[Bounds]:
    top, left, height, width = bounds
    row, column = (height + 1) // 2, (width + 1) // 2
    return [
        (top, left, row, column),
        (top, left + column, row, width - column),
        (top + row, left, height - row, column),
        (top + row, left + column, height - row, width - column),
    ]


def windows(height: int, width: int, choice: int | None) -> list[Window]:
    """The windows of the partition in visiting order; the chosen quadrant as its four sub-quadrants."""
    found = []
    for q, quadrant in enumerate(_quarter((0, 0, height, width))):
        parts = _quarter(quadrant) if q == choice else [quadrant]
        found += [Window(part, q == choice) for part in parts]
    return found


def unrolled(bounds: Bounds, height: int, width: int, shift: tuple[int, int]) -> list[Bounds]:
    """A window of the rolled map as the one, two or four rectangles that it is in the unrolled map."""

    def spans(start: int, size: int, length: int) -> list[tuple[int, int]]:
        first = min(size, length - start)
        return [(s, n) for s, n in ((start, first), (0, size - first)) if n > 0]

    top, left, h, w = bounds
    vertical = spans((top - shift[0]) % height, h, height)
    horizontal = spans((left - shift[1]) % width, w, width)
    return [(t, x, a, b) for t, a in vertical for x, b in horizontal]


def draw_curves(
    axes: Axes,
    runs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
) -> None:
    """Draw one line a run.

    Args:
        axes: where to draw.
        runs: name of the run to its x and y values.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
    """
    for name, (x, y) in runs.items():
        axes.plot(x, y, label=name, linewidth=1.5)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
