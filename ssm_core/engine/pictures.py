"""Drawings of what the scans of a model saw, over the image; likeliest classes; learning curves. No model code.

A map of H×W tokens lies over the image: token (i, j) covers a rectangle of it, whatever the image's size.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

QUADRANT_COLOUR = "#d62728"
TREE_COLOUR = "#ff7f0e"
_MIN_DRAWN = 256  # pixels of the shorter side of a picture with text


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


def write_classes(picture: Image.Image, likeliest: Sequence[tuple[str, float]], truth: str = "") -> Image.Image:
    """Enlarge a small picture and write classes with their probabilities into its corner.

    Args:
        picture: in mode RGB.
        likeliest: names and probabilities.
        truth: the label, for a first line; none if empty.
    """
    scale = max(_MIN_DRAWN / min(picture.size), 1)
    picture = picture.resize([round(side * scale) for side in picture.size])
    words = "\n".join([f"({truth})"] * bool(truth) + [f"{name} {score:.3f}" for name, score in likeliest])
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    draw.rectangle(draw.multiline_textbbox((4, 4), words, font), fill="black")
    draw.multiline_text((4, 4), words, "white", font)
    return picture


def classified(
    pixels: np.ndarray,  # [H, W, 3] or [H, W] uint8
    likeliest: Sequence[tuple[str, float]],
    truth: str,
) -> np.ndarray:  # [H', W', 3] uint8
    """:func:`write_classes` for arrays."""
    return np.asarray(write_classes(Image.fromarray(pixels).convert("RGB"), likeliest, truth))


def scan_picture(
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    record: Mapping[str, Any],
    sample: int,
    blocks: int,
) -> np.ndarray:  # [H", W", 3] uint8
    """An image and, beside it, what scans chose on it.

    Args:
        image: what the model was given.
        record: of :func:`~ssm_core.layers.record_scans`.
        sample: the image's number in the recorded batch.
        blocks: scans that are drawn at most, spread evenly; maps of one or two rows are left out.
    """
    names = [name for name, chosen in record.items() if chosen.height > 2]
    names = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(blocks, len(names))).round().astype(int))]
    figure = Figure(figsize=(2.6 * (len(names) + 1), 2.9), layout="constrained")
    axes = figure.subplots(1, len(names) + 1, squeeze=False)[0]
    show_image(axes[0], image, "image")
    for place, name in zip(axes[1:], names, strict=True):
        draw_choice(place, image, record[name], sample, block_caption(name))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def block_caption(scan: str) -> str:
    """``stages.1.blocks.0.mixer.scan`` as ``stage 2, block 1``."""
    parts = scan.split(".")
    stage, index = (int(parts[parts.index(key) + 1]) + 1 for key in ("stages", "blocks"))
    return f"stage {stage}, block {index}"


def draw_choice(
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    chosen: Any,
    sample: int,
    title: str = "",
) -> None:
    """Draw a quadtree scan's partition, or a tree scan's tree, over one image.

    Args:
        axes: where to draw.
        image: the image under it.
        chosen: what the scan chose, as :func:`~ssm_core.layers.record_scans` has it.
        sample: the image's number in the recorded batch.
        title: a caption.
    """
    if hasattr(chosen, "tree"):
        draw_tree(axes, image, chosen.tree.parent[sample].cpu().numpy(), chosen.height, chosen.width, title)
        return
    score = None if chosen.score is None else chosen.score[sample].float().cpu().numpy()
    choice = int(chosen.choice[sample]) if chosen.levels == 2 else None
    draw_quadrants(axes, image, chosen.height, chosen.width, choice, chosen.shift, score, title)
