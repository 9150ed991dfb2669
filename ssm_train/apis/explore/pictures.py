"""The pictures of the page. Each is as large as the photo is shown, without margins, so that a place in one is a place
in all.
"""

from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from quadtree_ssm.visualization import draw_order, draw_quadrants
from ssm_core.visualization import draw_heat, draw_mark, scaled_pixel, show_image, style, token_at, token_places
from ssm_train.apis.explore.looking import Photo, Pixel, Seen
from tree_ssm.visualization import affinity_maps, draw_tree

DEPTHS = ("one window", "four quadrants", "one is split")  # of a quadtree
WAY = "#0077bb"  # the way from a token to the root
_DPI = 100
_OPACITY = 0.75  # of affinities and scores over the photo
_STOPS = 24  # colours of a colour bar
_TICKS = (0.001, 0.01, 0.1, 0.25, 0.5, 0.75)  # beside 0 and 1
_APART = 0.07  # least distance of two labels of a colour bar, as a share of its length


class Place(NamedTuple):
    """A place of a photo as one model saw it.

    Attributes:
        seen: the photo.
        pixel: row and column in the image that the model saw.
        size: height and width of pictures in pixels.
    """

    seen: Seen
    pixel: tuple[float, float]
    size: tuple[int, int]


def place_of(photo: Photo, seen: Seen, pixel: Pixel, share: float = 1.0) -> Place:
    """A place for pictures of a photo.

    Args:
        photo: the photo.
        seen: the photo as a model saw it.
        pixel: row and column in the photo as it is shown.
        share: of the size of the photo that pictures have.
    """
    height, width = (max(round(side * share), 1) for side in photo.shown.shape[:2])
    return Place(seen, scaled_pixel(pixel, photo.shown.shape, seen.image.shape), (height, width))


def marked(photo: Photo, pixel: Pixel) -> Image.Image:
    """The photo with a cross at a pixel."""
    axes = _axes(photo.shown, photo.shown.shape[:2])
    show_image(axes, photo.shown)
    draw_mark(axes, pixel)
    return _drawn(axes)


def tree(place: Place, block: str) -> Image.Image:
    """The spanning tree of a block over the photo, and the way from the place to the root."""
    found, image = place.seen.trees[block], place.seen.image
    parent = found.tree.parent[0].numpy()
    axes = _axes(image, place.size)
    draw_tree(axes, image, parent, found.height, found.width)
    way = way_to_root(parent, token_at(place.pixel, found.height, found.width, image.shape))
    line = axes.plot(*token_places(found.height, found.width, image.shape)[way].T, color=WAY, linewidth=2, zorder=4)
    line[0].set_path_effects([withStroke(linewidth=4, foreground="white")])
    draw_mark(axes, place.pixel)
    return _drawn(axes)


def way_to_root(
    parent: np.ndarray,  # [L], a root is its own parent
    token: int,
) -> list[int]:
    """The tokens from one token to its root, both included."""
    way = [token]
    while parent[way[-1]] != way[-1]:
        way.append(int(parent[way[-1]]))
    return way


def raster(place: Place, block: str) -> Image.Image:
    """The way of a scan row by row through the tokens of a block."""
    found = place.seen.trees[block]
    axes = _axes(place.seen.image, place.size)
    order = np.arange(found.height * found.width)
    draw_order(axes, place.seen.image, order, found.height, found.width)
    draw_mark(axes, place.pixel)
    return _drawn(axes)


def affinities(place: Place, block: str, contrast: float) -> tuple[Image.Image, Image.Image]:
    """The affinity of a place to all others in a block: along the tree, and row by row.

    Args:
        place: the place.
        block: the name of the block.
        contrast: exponent of the colour scale, see :func:`ssm_core.visualization.draw_heat`.
    """
    image, found = place.seen.image, []
    for values in affinity_maps(place.seen.trees[block], place.pixel, image.shape):
        axes = _axes(image, place.size)
        draw_heat(axes, image, values, (0, 1), alpha=_OPACITY, contrast=contrast)
        draw_mark(axes, place.pixel)
        found.append(_drawn(axes))
    return found[0], found[1]


def quadrants(place: Place, block: str, depth: int) -> Image.Image:
    """The windows of a quadtree down to a depth. The window in which the place lies is filled.

    Args:
        place: the place.
        block: the name of the block.
        depth: how often the map is divided, see :data:`DEPTHS`.
    """
    chosen = place.seen.quadrants[block]
    token = token_at(place.pixel, chosen.height, chosen.width, place.seen.image.shape)
    axes = _axes(place.seen.image, place.size)
    draw_quadrants(axes, place.seen.image, chosen._replace(levels=depth, score=None), token=token)
    draw_mark(axes, place.pixel)
    return _drawn(axes)


def scores(place: Place, block: str) -> Image.Image | None:
    """The scores of all tokens of a block and the quadrants; None if the block chooses without scores."""
    chosen = place.seen.quadrants[block]
    if chosen.score is None:
        return None
    axes = _axes(place.seen.image, place.size)
    draw_quadrants(axes, place.seen.image, chosen)
    draw_mark(axes, place.pixel)
    return _drawn(axes)


def order(place: Place, block: str) -> Image.Image:
    """The way of the quadtree scan through the tokens of a block."""
    chosen = place.seen.quadrants[block]
    axes = _axes(place.seen.image, place.size)
    draw_order(axes, place.seen.image, place.seen.orders[block], chosen.height, chosen.width)
    draw_mark(axes, place.pixel)
    return _drawn(axes)


def affinity_bar(contrast: float) -> str:
    """The colour bar of affinities, as HTML. Its labels stand where the colour scale has their values.

    Args:
        contrast: exponent of the colour scale.
    """
    scale = matplotlib.colormaps[style.HEAT]
    colours = ", ".join(matplotlib.colors.to_hex(scale(i / (_STOPS - 1))) for i in range(_STOPS))
    values, last = [1.0], 1.0
    for value in reversed(_TICKS):
        if last - value**contrast >= _APART <= value**contrast:
            values.append(value)
            last = value**contrast
    labels = (f'<span style="left: {100 * value**contrast:.1f}%">{value:g}</span>' for value in (0.0, *values[::-1]))
    return (
        f'<div class="bar"><div class="colours" style="background: linear-gradient(to right, {colours})"></div>'
        f'<div class="ticks">{"".join(labels)}</div></div><p class="key">Affinity of the clicked pixel and every other '
        "token: the share of one’s input that reaches the other’s state.</p>"
    )


def _axes(
    image: np.ndarray,  # [H, W, 3] or [H, W]
    size: tuple[int, int],
) -> Axes:
    """Axes that fill a picture of a size and show an image from edge to edge."""
    figure = Figure(figsize=(size[1] / _DPI, size[0] / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    return axes


def _drawn(axes: Axes) -> Image.Image:
    axes.set_aspect("auto")  # rounding the sizes changes the ratio by less than a pixel
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
