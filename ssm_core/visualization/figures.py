"""What all pictures share: an image without axes, token maps that lie over it, and sheets of panels.

A map of H×W tokens lies over the image: token (i, j) covers a rectangle of it, whatever the image's size.
"""

import re
from typing import BinaryIO, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PANEL_WIDTH = 1.9  # inches
_TITLE = 0.4  # inches above every row


def show_image(
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    title: str = "",
) -> None:
    """Draw the image without axes."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _caption(axes, title)


def _caption(axes: Axes, title: str) -> None:
    axes.set_axis_off()
    axes.set_title(title, fontsize=8)


def draw_heat(
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    values: np.ndarray,  # [H, W]
    limits: tuple[float, float] | None = None,
    title: str = "",
    alpha: float = 1.0,
) -> None:
    """Draw a number of every token as a colour, over the image.

    Args:
        axes: where to draw.
        image: the image underneath.
        values: the numbers.
        limits: those that the two ends of the colour scale stand for; the smallest and the largest if left out.
        title: a caption.
        alpha: how much the colours cover; 1 hides the image.
    """
    rows, columns = image.shape[:2]
    low, high = limits or (None, None)
    if alpha < 1:
        show_image(axes, image)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    axes.imshow(values, cmap="viridis", vmin=low, vmax=high, alpha=alpha, extent=extent, interpolation="nearest")
    _caption(axes, title)


def draw_mark(
    axes: Axes,
    place: tuple[float, float],
) -> None:
    """Mark a pixel (row, column) by a red cross."""
    row, column = place
    axes.plot([column], [row], "x", color="red", markersize=6, markeredgewidth=1.6, zorder=5)


def token_places(
    height: int,
    width: int,
    image_shape: tuple[int, ...],
) -> np.ndarray:  # [L, 2]
    """The centre (x, y) of every token of a map, row by row, in the pixels of its image.

    Args:
        height: rows of the token map.
        width: columns of the token map.
        image_shape: H', W' of the image.
    """
    scale = np.array([image_shape[1] / width, image_shape[0] / height])
    vertex = np.arange(height * width)
    return (np.stack([vertex % width, vertex // width], axis=1) + 0.5) * scale - 0.5


def token_at(
    pixel: tuple[float, float],
    height: int,
    width: int,
    image_shape: tuple[int, ...],
) -> int:
    """The token of a map that covers a place of its image, counted row by row.

    Args:
        pixel: row and column; whole numbers are the centres of pixels, which reach half a pixel around them.
        height: rows of the token map.
        width: columns of the token map.
        image_shape: H', W' of the image.

    Raises:
        ValueError: the pixel is outside the image.
    """
    (row, column), (rows, columns) = pixel, image_shape[:2]
    if not (-0.5 <= row < rows - 0.5 and -0.5 <= column < columns - 0.5):
        raise ValueError(f"the pixel ({row:g}, {column:g}) is outside the image of {rows} × {columns}")
    return int((row + 0.5) * height / rows) * width + int((column + 0.5) * width / columns)


def scaled_pixel(
    pixel: tuple[float, float], image_shape: tuple[int, ...], other_shape: tuple[int, ...]
) -> tuple[float, float]:
    """The place of a pixel (row, column) of an image in the same image of another size; centres are whole numbers."""
    row, column = ((pixel[i] + 0.5) * other_shape[i] / image_shape[i] - 0.5 for i in range(2))
    return row, column


def caption(block: str) -> str:
    """``backbone.stages.1.blocks.0.mixer.scan`` as ``stage 2, block 1``; another name as it is."""
    found = re.search(r"(?:^|\.)stages\.(\d+)\.blocks\.(\d+)(?:\.|$)", block)
    return f"stage {int(found[1]) + 1}, block {int(found[2]) + 1}" if found else block


def panels(
    rows: int,
    columns: int,
    image_shape: tuple[int, ...],
    width: float = PANEL_WIDTH,
    title: str = "",
) -> tuple[Figure, np.ndarray]:
    """An empty sheet of panels of an image's shape.

    Args:
        rows: of panels.
        columns: of panels.
        image_shape: H', W' of the images to come.
        width: of a panel in inches.
        title: what is said above the sheet, such as whose weights these are.

    Returns:
        The figure and its axes ``[rows, columns]``, switched off until something is drawn.
    """
    height = width * image_shape[0] / image_shape[1] + _TITLE
    figure = Figure(figsize=(columns * width, rows * height + (_TITLE if title else 0)), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=9)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def in_rows(count: int, longest: int = 6) -> tuple[int, int]:
    """Rows and columns of a sheet that takes ``count`` panels in rows of at most ``longest``."""
    rows = -(-count // longest)
    return rows, -(-count // max(rows, 1))


def save(figure: Figure, file: BinaryIO, kind: Literal["png", "svg"], dpi: int = 110) -> None:
    """Write a figure; the same figure gives the same bytes.

    Args:
        figure: what to write.
        file: open for writing.
        kind: format.
        dpi: dots an inch, of a PNG and of the images within an SVG.
    """
    # An SVG's ids are random and it bears its date, unless told otherwise.
    with matplotlib.rc_context({"svg.hashsalt": "tree-ssm-train"}):
        figure.savefig(file, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
