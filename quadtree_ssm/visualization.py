"""Pictures of QuadMamba: the scores, the quadrants and the chosen quadrant of each block, the order of the tokens."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor, nn

from quadtree_ssm.modules import ChosenQuadrant, QuadtreeScan, ReleasedQuadtreeScan
from quadtree_ssm.ops import quadtree_order
from quadtree_ssm.partition import quadrant_of_tokens, window_raster_slots
from ssm_core.visualization import (
    PAGE,
    Sheet,
    caption,
    caption_panel,
    draw_choice,
    draw_heat,
    panel_width,
    show_image,
    show_pale,
    style,
    token_pitch,
    token_places,
    wrapped,
)

SHADE = "shade"  # name of what is drawn behind lines
_READABLE = 1.0  # inches: keys have room in panels that are wider
_OPACITY = 0.55  # of scores over the image

Bounds = tuple[int, int, int, int]  # top, left, height, width


class Window(NamedTuple):
    """One window of the partition: its bounds in the rolled map, and whether it belongs to the chosen quadrant."""

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


def windows(height: int, width: int, choice: int | None, levels: int = 2) -> list[Window]:
    """Return the windows of the partition in the order of the scan. The chosen quadrant gives four windows.

    Args:
        height: number of rows of the token map.
        width: number of columns of the token map.
        choice: the number of the quadrant that is split again; None splits no quadrant.
        levels: number of levels of the quadtree; 0 gives one window for the whole map.
    """
    whole = (0, 0, height, width)
    if levels == 0:
        return [Window(whole, False)]
    found = []
    for q, quadrant in enumerate(_quarter(whole)):
        split = q == choice and levels == 2
        found += [Window(part, split) for part in (_quarter(quadrant) if split else [quadrant])]
    return found


def unrolled(bounds: Bounds, height: int, width: int, shift: tuple[int, int]) -> list[Bounds]:
    """Return the one, two or four rectangles of the unrolled map that a window of the rolled map covers."""

    def spans(start: int, size: int, length: int) -> list[tuple[int, int]]:
        first = min(size, length - start)
        return [(s, n) for s, n in ((start, first), (0, size - first)) if n > 0]

    top, left, h, w = bounds
    vertical = spans((top - shift[0]) % height, h, height)
    horizontal = spans((left - shift[1]) % width, w, width)
    return [(t, x, a, b) for t, a in vertical for x, b in horizontal]


def window_of(token: int, chosen: ChosenQuadrant, sample: int = 0) -> Window:
    """Return the smallest window of the partition that contains a token.

    Args:
        token: number of the token. Tokens are counted row by row in the unrolled map.
        chosen: the record of the scan from :func:`ssm_core.layers.record_scans`.
        sample: index of the image in the batch.

    Raises:
        ValueError: there is no such token.
    """
    if not 0 <= token < chosen.height * chosen.width:
        raise ValueError(f"there is no token {token} in a map of {chosen.height} × {chosen.width}")
    row = (token // chosen.width + chosen.shift[0]) % chosen.height
    column = (token % chosen.width + chosen.shift[1]) % chosen.width
    choice = int(chosen.choice[sample])

    def has_it(window: Window) -> bool:
        top, left, height, width = window.bounds
        return 0 <= row - top < height and 0 <= column - left < width

    return next(filter(has_it, windows(chosen.height, chosen.width, choice, chosen.levels)))


def token_order(
    scan: QuadtreeScan,
    chosen: ChosenQuadrant,
) -> Tensor:  # [B, L]
    """Return the token that the forward scan visits at each step, for every sample. The backward scan reverses it.

    In the order of the released code several tokens can share one place of the sequence. This function lists such
    tokens one after another.

    Args:
        scan: the scan module.
        chosen: the record of the scan from :func:`ssm_core.layers.record_scans`.
    """
    height, width, shift = chosen.height, chosen.width, chosen.shift
    if not isinstance(scan, ReleasedQuadtreeScan) or chosen.levels < 2:
        return quadtree_order(chosen.choice, height, width, levels=chosen.levels, shift=shift)
    device = chosen.choice.device
    fine, coarse = (window_raster_slots(height, width, n, shift, device) for n in (4, 2))
    split = quadrant_of_tokens(height, width, shift, device).flatten() == chosen.choice[:, None]
    return torch.where(split, fine, coarse).argsort(dim=1, stable=True)


def draw_quadrants(
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    chosen: ChosenQuadrant,
    sample: int = 0,
    title: str = "",
    token: int | None = None,
) -> None:
    """Draw the quadrants of the token map over its image. The chosen quadrant is split in four.

    The scores are drawn as transparent colours.

    Args:
        axes: the axes to draw on.
        image: the image underneath.
        chosen: the record of a scan from :func:`ssm_core.layers.record_scans`.
        sample: the index of the image in the batch.
        title: a caption.
        token: the number of a token whose window is filled with a colour.
    """
    if chosen.score is None:
        show_pale(axes, image, title)
    else:
        scores = chosen.score[sample].float().cpu().numpy()
        draw_heat(axes, image, scores, _usual(scores), title, _OPACITY, style.SCORES)
    rows, columns = image.shape[:2]
    choice = int(chosen.choice[sample])
    marked = None if token is None else window_of(token, chosen, sample)
    thickness = min(max(token_pitch(axes, 1) / 110, 0.5), 1.6)  # points
    everywhere = []
    for window in windows(chosen.height, chosen.width, choice, chosen.levels):
        parts = unrolled(window.bounds, chosen.height, chosen.width, chosen.shift)
        y, x = rows / chosen.height, columns / chosen.width
        patches = [Rectangle((left * x - 0.5, top * y - 0.5), w * x, h * y) for top, left, h, w in parts]
        everywhere += patches
        colour = style.CHOSEN if window.chosen else style.QUADRANT
        front = 3 if window.chosen else 2
        axes.add_collection(
            PatchCollection(patches, facecolors="none", edgecolors=colour, linewidths=thickness, zorder=front)
        )
        if window == marked:
            axes.add_collection(PatchCollection(patches, facecolors=style.WINDOW, alpha=0.45, zorder=1.5))
    # Dark edges of all lines, so that white ones are seen on bright images.
    shade = PatchCollection(everywhere, facecolors="none", edgecolors="black", linewidths=2.2 * thickness, zorder=1.8)
    shade.set(alpha=0.5, gid=SHADE)
    axes.add_collection(shade)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)


@draw_choice.register
def _(chosen: ChosenQuadrant, axes: Axes, image: np.ndarray, sample: int = 0, title: str = "") -> None:
    draw_quadrants(axes, image, chosen, sample, title)


def draw_order(
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    order: np.ndarray,  # [H·W], the token at each step
    height: int,
    width: int,
    title: str = "",
) -> LineCollection:
    """Draw the order of the tokens as a line over the pale image. It starts at a dot and changes from dark to bright.

    Steps to a neighbouring token are thick and opaque. Jumps are thin and faint.

    Args:
        axes: the axes to draw on.
        image: the image underneath.
        order: one sample of the result of :func:`token_order`.
        height: number of rows of the token map.
        width: number of columns of the token map.
        title: a caption.

    Returns:
        The steps, whose values are their numbers from 0.
    """
    show_pale(axes, image, title)
    places = token_places(height, width, image.shape)[order]
    segments = np.stack([places[:-1], places[1:]], axis=1)
    row, column = np.divmod(order, width)
    near = np.maximum(abs(np.diff(row)), abs(np.diff(column))) <= 1
    thickness = min(max(0.3 * token_pitch(axes, width), 0.2), 1.4)
    way = LineCollection(
        list(segments), cmap=style.WAY, linewidths=np.where(near, thickness, 0.2), alpha=np.where(near, 1.0, 0.5)
    )
    way.set_array(np.arange(len(segments)))
    axes.add_collection(way, autolim=False)
    axes.plot(*places[0], "o", color="white", markeredgecolor="black", markersize=4, clip_on=False)
    return way


def _usual(
    scores: np.ndarray,  # [H, W]
) -> tuple[float, float]:
    """The ends of a colour scale that a few extreme scores do not stretch: 1 % are below it, and 1 % above."""
    low, high = np.percentile(scores, (1, 99))
    return float(low), float(high)


def _captions(name: str, block: ChosenQuadrant, width: float) -> tuple[str, str, str]:
    """The captions of a block's scores, quadrants and order, for panels of a width in inches."""
    scores = caption(name) if block.score is not None else f"{caption(name)}, no scores"
    shift = f"shift {block.shift}" if block.shift != (0, 0) else ""
    order = f"{block.height} × {block.width} tokens"
    return wrapped(scores, width), wrapped(shift, width), wrapped(order, width)


def _explain(quadrants: Axes, way: Axes) -> None:
    """Draw the keys of the rows with quadrants and with orders."""
    edge = [withStroke(linewidth=3, foreground="black", alpha=0.6)]
    frames = [
        Line2D([], [], color=colour, linewidth=1.5, label=label, path_effects=edge)
        for colour, label in ((style.QUADRANT, "quadrant"), (style.CHOSEN, "chosen quadrant,\nsplit again"))
    ]
    start = Line2D(
        [], [], color="white", marker="o", markeredgecolor="black", markersize=4, linestyle="", label="start"
    )
    steps = Line2D([], [], color=style.WAY(0.3), linewidth=1.4, label="to a neighbour")
    jumps = Line2D([], [], color=style.WAY(0.3), linewidth=0.4, alpha=0.7, label="jump")
    for axes, handles in ((quadrants, frames), (way, [start, steps, jumps])):
        caption_panel(axes, "")
        axes.legend(handles=handles, loc="center", frameon=False, fontsize=style.TITLE_SIZE)


def quadtree_figure(
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    model: nn.Module,
    chosen: Mapping[str, ChosenQuadrant],
    title: str = "",
    width: float = PAGE,
) -> Figure:
    """Draw one column per block: the scores, the quadrants over the image, and the order of the tokens.

    The three panels of a single block are larger, in two rows.

    Args:
        image: the first image of the recorded batch.
        model: the model that contains the modules named in ``chosen``.
        chosen: the result of :func:`ssm_core.layers.record_scans`, or some entries of it.
        title: a line above the picture.
        width: of the picture in inches.

    Raises:
        ValueError: ``chosen`` names a module that is not a quadtree scan.
    """
    if len(chosen) == 1:
        return _block_figure(image, model, *next(iter(chosen.items())), title, width)
    columns = 1 + len(chosen)
    captions = [_captions(name, block, panel_width(columns, width, bar=True)) for name, block in chosen.items()]
    lines = [max((texts[row].count("\n") + bool(texts[row]) for texts in captions), default=1) for row in range(3)]
    sheet = Sheet(3, columns, image.shape, width, title, lines, bar=True)
    show_image(sheet.panel(0, 0), image, "image")
    if width / columns > _READABLE:
        _explain(sheet.panel(1, 0), sheet.panel(2, 0))
    for column, ((name, block), texts) in enumerate(zip(chosen.items(), captions, strict=True), start=1):
        scores, quadrants, way = (sheet.panel(row, column) for row in range(3))
        _draw_block((scores, quadrants, way), image, block, _order(model, name, block), texts)
    _add_bars(sheet, 2)
    return sheet.figure


def _block_figure(
    image: np.ndarray, model: nn.Module, name: str, block: ChosenQuadrant, title: str, width: float
) -> Figure:
    """:func:`quadtree_figure` of one block: two rows of two large panels."""
    texts = _captions(name, block, width / 2)
    sheet = Sheet(2, 2, image.shape, width, title, [1, 1], bar=True)
    show_image(sheet.panel(0, 0), image, "image")
    places = (0, 1), (1, 0), (1, 1)
    scores, quadrants, way = (sheet.panel(row, column) for row, column in places)
    _draw_block((scores, quadrants, way), image, block, _order(model, name, block), texts)
    _add_bars(sheet, 1)
    return sheet.figure


def _draw_block(
    panels: tuple[Axes, Axes, Axes],
    image: np.ndarray,
    block: ChosenQuadrant,
    order: np.ndarray,
    captions: tuple[str, str, str],
) -> None:
    """Draw the scores, the quadrants and the order of a block's tokens."""
    scores, quadrants, way = panels
    if block.score is None:
        show_pale(scores, image, captions[0])
    else:
        values = block.score[0].float().cpu().numpy()
        draw_heat(scores, image, values, _usual(values), captions[0], colours=style.SCORES)
    draw_quadrants(quadrants, image, block, title=captions[1])
    draw_order(way, image, order, block.height, block.width, captions[2])


def _order(model: nn.Module, name: str, block: ChosenQuadrant) -> np.ndarray:  # [H·W]
    """The token at each step of the named scan, for the first image."""
    scan = model.get_submodule(name)
    if not isinstance(scan, QuadtreeScan):
        raise ValueError(f"{name} is a {type(scan).__name__}, not a quadtree scan")
    return token_order(scan, block)[0].cpu().numpy()


def _add_bars(sheet: Sheet, rows: int) -> None:
    """Draw the colour scales of the scores beside the first rows, and of the order beside the next one."""
    ranks, steps = (ScalarMappable(Normalize(0, 1), colours) for colours in (style.SCORES, style.WAY))
    sheet.add_colour_bar(ranks, ends=("lowest\nscore", "highest\nscore"), row=0, rows=rows)
    sheet.add_colour_bar(steps, ends=("start", "end"), row=rows, rows=1)
