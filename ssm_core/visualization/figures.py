"""The elements of all pictures: images without axes, token maps over an image, and sheets of panels.

A map of H×W tokens covers the whole image, and each token (i, j) covers one rectangle of it. The image can have any
size. :mod:`.style` has the colours and sizes.
"""

import re
import textwrap
from collections.abc import Sequence
from typing import Any, BinaryIO, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

from . import style

PANEL_WIDTH = 1.9  # inches
_PAD, _GAP = 0.03, 0.05  # inches at the edges of a sheet, and between panels
_BAR, _LONGEST_BAR = 0.58, 2.8  # inches that a colour bar with its labels is wide, and that it is high
_GREY = np.array([0.299, 0.587, 0.114])  # luma of red, green and blue (ITU-R BT.601)
_FEWEST = 8  # letters of a line, however narrow its place is
_PALE = 0.6  # how far a pale image is moved from its own greys to white

Kind = Literal["pdf", "png", "svg", "webp"]
KINDS: tuple[Kind, ...] = ("pdf", "png", "svg", "webp")


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
    # This way of scaling averages pixels where a large image gets small, and shows them as squares where it gets large.
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
    caption_panel(axes, title)


def show_pale(
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    title: str = "",
) -> None:
    """Draw the image in pale greys, over which coloured lines stand out."""
    show_image(axes, _PALE + (1 - _PALE) * in_grey(image), title)


def in_grey(
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
) -> np.ndarray:  # [H', W']
    """Return the brightness of every pixel."""
    return image if image.ndim == 2 else image @ _GREY


def wrapped(text: str, width: float, size: float = style.TITLE_SIZE) -> str:
    """Break the lines of a text so that it fits a place.

    Args:
        text: the text.
        width: of the place in inches.
        size: of the letters in points.
    """
    lines = []
    for line in text.split("\n"):
        letters = len(line)
        while letters > _FEWEST and any(_length(part, size) > width for part in textwrap.wrap(line, letters)):
            letters -= 1
        lines += textwrap.wrap(line, max(letters, 1)) or [""]
    return "\n".join(lines)


def _length(text: str, size: float) -> float:
    """The length in inches of a line of text whose letters have a size in points."""
    return TextPath((0, 0), as_written(text), size=size).get_extents().width / 72


def caption_panel(axes: Axes, title: str) -> None:
    """Take ticks and frame from a panel, and write a caption above it."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_axis_on()  # labels of rows are written beside the panel
    axes.patch.set_visible(False)
    axes.set_title(as_written(title), fontsize=style.TITLE_SIZE, pad=3)


def write_inside(axes: Axes, text: str, top: bool = False) -> None:
    """Write a few words into the lower or the upper left corner of a panel, white with a black edge."""
    lines = as_written(wrapped(text, token_pitch(axes, 1) / 72, style.SMALL_SIZE))
    height, side = (0.97, "top") if top else (0.03, "bottom")
    words = axes.text(0.02, height, lines, linespacing=1.0, transform=axes.transAxes, color="white")
    words.set(fontsize=style.SMALL_SIZE, verticalalignment=side)
    words.set_path_effects([withStroke(linewidth=1.2, foreground="black")])


def draw_heat(
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    values: np.ndarray,  # [H, W]
    limits: tuple[float, float] | None = None,
    title: str = "",
    alpha: float = 1.0,
    colours: str | Colormap = style.HEAT,
    contrast: float = 1.0,
) -> AxesImage:
    """Draw one number per token as a colour over the image.

    Args:
        axes: the axes to draw on.
        image: the image underneath, which is drawn in grey.
        values: the numbers.
        limits: the values at the two ends of the colour scale. By default the smallest and the largest number.
        title: a caption.
        alpha: the opacity of the colours; 1 hides the image.
        colours: one of Matplotlib's colour scales.
        contrast: exponent of the colour scale. Below 1, small numbers are told apart better, and large ones less.

    Returns:
        What a colour bar is made for, see :func:`add_colour_bar`.
    """
    rows, columns = image.shape[:2]
    low, high = limits or (float(values.min()), float(values.max()))
    if alpha < 1:
        show_image(axes, in_grey(image))
    scale = PowerNorm(contrast, low, high) if contrast != 1 else matplotlib.colors.Normalize(low, high)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    drawn = axes.imshow(values, cmap=colours, norm=scale, alpha=alpha, extent=extent, interpolation="nearest")
    caption_panel(axes, title)
    return drawn


def draw_mark(
    axes: Axes,
    place: tuple[float, float],
) -> None:
    """Mark the pixel (row, column) with a black cross that has a white edge."""
    row, column = place
    size = min(max(0.08 * token_pitch(axes, 1), 3.5), 9)  # points
    (cross,) = axes.plot([column], [row], "+", color=style.MARK, markersize=size, markeredgewidth=size / 6, zorder=5)
    cross.set_path_effects([withStroke(linewidth=size / 2.4, foreground="white")])


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


def token_pitch(axes: Axes, width: int) -> float:
    """Return the distance of neighbouring tokens in points, in a panel whose map has ``width`` tokens in a row."""
    return axes.bbox.width / axes.figure.dpi * 72 / width


def caption(block: str) -> str:
    """Return ``stage 2, block 1`` for ``backbone.stages.1.blocks.0.mixer.scan``. Other names are returned unchanged."""
    found = re.search(r"(?:^|\.)stages\.(\d+)\.blocks\.(\d+)(?:\.|$)", block)
    return f"stage {int(found[1]) + 1}, block {int(found[2]) + 1}" if found else block


def panel_width(columns: int, width: float, beside: float = 0.0, bar: bool = False) -> float:
    """Return the width in inches of a panel of a :class:`Sheet`, whose arguments these are."""
    room = width - (_BAR if bar else _PAD) - _PAD - beside
    return (room + _GAP) / columns - _GAP


class Sheet:
    """A figure with panels of one shape at fixed places. The width of the figure is what it will be on paper.

    Args:
        rows: number of rows of panels.
        columns: number of columns of panels.
        image_shape: H', W' of the images that will be drawn.
        width: width of the figure in inches.
        title: a line above the panels, for example the origin of the weights.
        lines: for each row, how many lines the captions above its panels have.
        beside: inches at the left for labels of rows.
        bar: whether there is room at the right for a colour bar.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        image_shape: tuple[int, ...],
        width: float = style.PAGE,
        title: str = "",
        lines: Sequence[int] = (),
        beside: float = 0.0,
        bar: bool = False,
    ):
        above = [style.LINE * n + _PAD for n in (*lines, *(0 for _ in range(rows - len(lines))))]
        words = wrapped(title, width, style.SMALL_SIZE) if title else ""
        top = style.LINE * (words.count("\n") + 1) + _PAD if words else _PAD
        self._left = _PAD + beside
        self._right = width - (_BAR if bar else _PAD)
        across = panel_width(columns, width, beside, bar)
        self._step = across + _GAP
        self._cell = across, across * image_shape[0] / image_shape[1]
        # The upper edges of the rows, from the upper edge of the figure.
        self._tops = [top + sum(above[: i + 1]) + i * (self._cell[1] + _GAP) for i in range(rows)]
        height = self._tops[-1] + self._cell[1] + (2 if bar else 1) * _PAD  # half of the lowest number is below its bar
        self.figure = Figure(figsize=(width, height))
        if words:
            place = {"x": _PAD / width, "y": 1 - _PAD / height, "ha": "left", "va": "top"}
            self.figure.suptitle(as_written(words), fontsize=style.SMALL_SIZE, color="0.35", **place)

    def panel(self, row: int, column: int, rows: int = 1, columns: int = 1) -> Axes:
        """Add a panel.

        Args:
            row: its row, from 0.
            column: its column, from 0.
            rows: how many rows it covers.
            columns: how many columns it covers.
        """
        bottom = self._tops[row + rows - 1] + self._cell[1]
        left = self._left + column * self._step
        return self._axes(left, bottom, columns * self._step - _GAP, bottom - self._tops[row])

    def add_colour_bar(
        self,
        drawn: ScalarMappable,
        label: str = "",
        ends: tuple[str, str] | None = None,
        row: int = 0,
        rows: int = 0,
    ) -> Colorbar:
        """Draw a colour scale at the right. It is opaque, even if the colours over the image are not.

        Args:
            drawn: what :func:`draw_heat` returns, or anything else with a colour scale.
            label: what the numbers are, with their unit.
            ends: words at the lower and the upper end, in place of numbers.
            row: the first row that it stands beside.
            rows: how many rows it stands beside; 0 for all from there on.
        """
        top = self._tops[row]
        bottom = self._tops[row + rows - 1 if rows else -1] + self._cell[1]
        spare = max(bottom - top - _LONGEST_BAR, 0) / 2
        axes = self._axes(self._right + 0.07, bottom - spare, 0.08, bottom - top - 2 * spare)
        bar = self.figure.colorbar(ScalarMappable(drawn.norm, drawn.get_cmap()), cax=axes)
        bar.set_label(as_written(wrapped(label, bottom - top - 2 * spare)), fontsize=style.TITLE_SIZE, labelpad=3)
        axes.tick_params(labelsize=style.SMALL_SIZE, length=2, width=0.5, pad=1.5)
        axes.spines[:].set_linewidth(0.5)
        if ends is not None:
            bar.set_ticks(list(axes.get_ylim()), labels=[as_written(text) for text in ends])
            bar.minorticks_off()
            lower, upper = axes.get_yticklabels()
            lower.set_verticalalignment("bottom")
            upper.set_verticalalignment("top")
        return bar

    def _axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Add axes whose edges are given in inches from the left and the upper edge of the figure."""
        across, down = self.figure.get_size_inches()
        return self.figure.add_axes((left / across, 1 - bottom / down, width / across, height / down))


def panels(
    rows: int,
    columns: int,
    image_shape: tuple[int, ...],
    width: float = PANEL_WIDTH,
    title: str = "",
) -> tuple[Figure, np.ndarray]:
    """Create an empty sheet of panels that have the shape of an image, with captions of at most two lines.

    Args:
        rows: number of rows of panels.
        columns: number of columns of panels.
        image_shape: H', W' of the images that will be drawn.
        width: width of a panel in inches.
        title: a line above the sheet, for example the origin of the weights.

    Returns:
        The figure and its axes ``[rows, columns]``. The axes are hidden until something is drawn on them.
    """
    sheet = Sheet(rows, columns, image_shape, columns * width, title, [2] * rows)
    grid = np.array([[sheet.panel(row, column) for column in range(columns)] for row in range(rows)], dtype=object)
    for axes in grid.flat:
        axes.set_axis_off()
    return sheet.figure, grid


def in_rows(count: int, longest: int = 6) -> tuple[int, int]:
    """Return the rows and columns of a sheet with ``count`` panels, at most ``longest`` of them per row."""
    rows = -(-count // longest)
    return rows, -(-count // max(rows, 1))


def save(figure: Figure, file: BinaryIO, kind: Kind, dpi: int = 110) -> None:
    """Write a figure to a file. The same figure always gives the same bytes.

    Args:
        figure: the figure.
        file: a file that is open for writing.
        kind: the file format. PDF and SVG keep lines and letters as such; letters of a PDF are TrueType. WebP is for
            pages of the web: with photographs it is a tenth of the size of a PNG.
        dpi: dots per inch of a PNG or a WebP, and of the images within a PDF or an SVG.
    """
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    quality: dict[str, Any] = {"pil_kwargs": {"quality": 85, "method": 6}} if kind == "webp" else {}
    # Conferences refuse letters of Type 3, the default in PDFs; 42 is TrueType. Without a salt an SVG has random names.
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "tree-ssm-train"}):
        figure.savefig(file, format=kind, dpi=dpi, metadata=undated, **quality)
