"""The elements of all pictures: images without axes, token maps over an image, and sheets of panels.

A map of H×W tokens covers the whole image, and each token (i, j) covers one rectangle of it. The image can have any
size.
"""

import re
from typing import BinaryIO, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PANEL_WIDTH = 1.9  # inches
_TITLE = 0.4  # inches for the caption above every row


def as_written(text: str) -> str:
    """A text such as a name, for matplotlib to draw letter by letter.

    Dollar signs would start a formula. Letters of a file's name that are no UTF-8 cannot be drawn.
    """
    return text.encode(errors="replace").decode().replace("$", r"\$")


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
    axes.set_title(as_written(title), fontsize=8)


def draw_heat(
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    values: np.ndarray,  # [H, W]
    limits: tuple[float, float] | None = None,
    title: str = "",
    alpha: float = 1.0,
) -> None:
    """Draw one number per token as a colour over the image.

    Args:
        axes: the axes to draw on.
        image: the image underneath.
        values: the numbers.
        limits: the values at the two ends of the colour scale. By default the smallest and the largest number.
        title: a caption.
        alpha: the opacity of the colours; 1 hides the image.
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
    """Mark the pixel (row, column) with a red cross."""
    row, column = place
    axes.plot([column], [row], "x", color="red", markersize=6, markeredgewidth=1.6, zorder=5)


def token_places(
    height: int,
    width: int,
    image_shape: tuple[int, ...],
) -> np.ndarray:  # [L, 2]
    """Return the centres (x, y) of all tokens of a map in pixels of the image, row by row.

    Args:
        height: number of rows of the token map.
        width: number of columns of the token map.
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
    """Return the number of the token that covers a place in the image. Tokens are counted row by row.

    Args:
        pixel: row and column. A whole number is the centre of a pixel, which extends half a pixel to each side.
        height: number of rows of the token map.
        width: number of columns of the token map.
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
    """Return the place of a pixel (row, column) after the image was resized. Whole numbers are centres of pixels."""
    row, column = ((pixel[i] + 0.5) * other_shape[i] / image_shape[i] - 0.5 for i in range(2))
    return row, column


def caption(block: str) -> str:
    """Return ``stage 2, block 1`` for ``backbone.stages.1.blocks.0.mixer.scan``. Other names are returned unchanged."""
    found = re.search(r"(?:^|\.)stages\.(\d+)\.blocks\.(\d+)(?:\.|$)", block)
    return f"stage {int(found[1]) + 1}, block {int(found[2]) + 1}" if found else block


def panels(
    rows: int,
    columns: int,
    image_shape: tuple[int, ...],
    width: float = PANEL_WIDTH,
    title: str = "",
) -> tuple[Figure, np.ndarray]:
    """Create an empty sheet of panels that have the shape of an image.

    Args:
        rows: number of rows of panels.
        columns: number of columns of panels.
        image_shape: H', W' of the images that will be drawn.
        width: width of a panel in inches.
        title: a title above the sheet, for example the origin of the weights.

    Returns:
        The figure and its axes ``[rows, columns]``. The axes are hidden until something is drawn on them.
    """
    height = width * image_shape[0] / image_shape[1] + _TITLE
    figure = Figure(figsize=(columns * width, rows * height + (_TITLE if title else 0)), layout="constrained")
    if title:
        figure.suptitle(as_written(title), fontsize=9)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def in_rows(count: int, longest: int = 6) -> tuple[int, int]:
    """Return the rows and columns of a sheet with ``count`` panels, at most ``longest`` of them per row."""
    rows = -(-count // longest)
    return rows, -(-count // max(rows, 1))


def save(figure: Figure, file: BinaryIO, kind: Literal["png", "svg"], dpi: int = 110) -> None:
    """Write a figure to a file. The same figure always gives the same bytes.

    Args:
        figure: the figure.
        file: a file that is open for writing.
        kind: the file format.
        dpi: dots per inch of a PNG, and of the images within an SVG.
    """
    # By default Matplotlib writes random ids and the date into an SVG.
    with matplotlib.rc_context({"svg.hashsalt": "tree-ssm-train"}):
        figure.savefig(file, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
