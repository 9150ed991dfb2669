"""Pictures of MambaTree: the spanning tree of a block over its image, and the affinity of a pixel to all others.

The affinity of two tokens is ∏ Ā over the path between them. The scan multiplies the input of one token by this factor
to get its share in the state of the other token (MambaTree, section 3.2 and the figures of affinity maps). In a scan
row by row the path follows the rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor, nn

from ssm_core.visualization import (
    PAGE,
    Sheet,
    caption,
    caption_panel,
    draw_choice,
    draw_heat,
    draw_mark,
    in_rows,
    panel_width,
    show_image,
    show_pale,
    style,
    token_at,
    token_pitch,
    token_places,
    write_inside,
)
from tree_ssm.modules import GrownTree, TreeScan
from tree_ssm.ops import Tree, tree_scan

_WAYS = "through the tree", "row by row"
_SHORT_WAYS = "tree", "rows"
_ROOMY = 0.75  # inches: panels that are narrower have room for the short words alone
_WIDEST = 3.6  # points: edges of maps whose tokens are farther from each other are not thicker
_OPACITY = 0.75  # of affinities over the image: shapes of the image are seen, and the colours hardly change


class WeighedTree(NamedTuple):
    """The tree that a scan followed, with the weights of its edges."""

    tree: Tree  # vertices are the tokens of the map, row by row
    weight: Tensor  # [B, L, D], the weight Ā of the edge from every token to its parent; N states have N·D channels
    height: int
    width: int


@contextmanager
def record_trees(model: nn.Module) -> Iterator[dict[str, WeighedTree]]:
    """Record the weighted tree of every tree scan in the model's last forward pass within the context.

    :func:`ssm_core.layers.record_scans` works in the same way, but it records trees without weights.

    Args:
        model: any module that contains tree scans.

    Yields:
        A dictionary that the forward pass fills. A key is the name of a scan module, and its value is the tree of this
        scan. The keys are in the order of execution.
    """
    record: dict[str, WeighedTree] = {}

    def hook(name: str) -> Callable[[TreeScan, tuple[Any, ...], tuple[Tensor, GrownTree]], None]:
        def store(scan: TreeScan, inputs: tuple[Any, ...], output: tuple[Tensor, GrownTree]) -> None:
            with torch.no_grad():
                weight = scan.edge_weights(inputs[0].flatten(1, 2)).flatten(2)
            record[name] = WeighedTree(output[1].tree, weight, output[1].height, output[1].width)

        return store

    scans = [(name, module) for name, module in model.named_modules() if isinstance(module, TreeScan)]
    handles = [module.register_forward_hook(hook(name)) for name, module in scans]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def tree_affinity(
    weight: Tensor,  # [B, L, D]
    tree: Tree,
    vertex: int,
) -> Tensor:  # [B, L]
    """Return ∏ weight over the path from one vertex to every other, averaged over the channels. It is 1 at the vertex.

    The function computes it as the tree scan of an impulse: h_i = Σ_j (∏ over the path from i to j) u_j, where u is 1
    at the vertex and 0 elsewhere.

    Args:
        weight: the weight of the edge from every vertex to its parent.
        tree: the tree.
        vertex: the vertex at which the paths start.

    Raises:
        ValueError: there is no such vertex.
    """
    length = weight.shape[1]
    if not 0 <= vertex < length:
        raise ValueError(f"there is no vertex {vertex} among 0 … {length - 1}")
    impulse = torch.zeros_like(weight)
    impulse[:, vertex] = 1
    return tree_scan(impulse, weight, tree).mean(-1)


def raster_affinity(
    weight: Tensor,  # [B, L, D]
    vertex: int,
) -> Tensor:  # [B, L]
    """Return the affinity that the same weights give along the rows instead of a tree; see :func:`tree_affinity`.

    The affinity of two tokens is the product of the weights of all tokens after the earlier one, up to the later one.
    A scan row by row and its reverse would use this factor.

    Args:
        weight: the weight of the step to every token from its predecessor.
        vertex: the token at which the paths start.

    Raises:
        ValueError: there is no such vertex.
    """
    order = torch.arange(weight.shape[1], device=weight.device).expand(weight.shape[:2]).contiguous()
    return tree_affinity(weight, Tree(parent=(order - 1).clamp(min=0), order=order), vertex)


def draw_tree(
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    parent: np.ndarray,  # [H·W], a root is its own parent
    height: int,
    width: int,
    title: str = "",
) -> LineCollection:
    """Draw a spanning tree of the token map over its pale image.

    An edge joins the places of two tokens. It is the thicker, the more tokens it connects with the root. Its colour
    says how far from the root it is. A dot marks the root.

    Args:
        axes: the axes to draw on.
        image: the image underneath.
        parent: the parent of each token.
        height: number of rows of the token map.
        width: number of columns of the token map.
        title: a caption.

    Returns:
        The edges, whose values are their distances from the root as shares of the longest one.
    """
    show_pale(axes, image, title)
    places, vertex = token_places(height, width, image.shape), np.arange(height * width)
    depth = depths(parent)
    size = subtree_sizes(parent, depth)
    child = vertex[parent != vertex]
    child = child[np.argsort(size[child], kind="stable")]  # thick edges are drawn last, over thin ones
    segments = np.stack([places[child], places[parent[child]]], axis=1)
    share = np.log(size[child]) / np.log(max(len(parent), 2))
    thickness = min(token_pitch(axes, width), _WIDEST) * (0.16 + 0.44 * share)
    edges = LineCollection(list(segments), linewidths=thickness, cmap=style.WAY, capstyle="round")
    edges.set_array(depth[child] / max(int(depth.max()), 1))
    edges.set_clim(0, 1)
    axes.add_collection(edges, autolim=False)
    axes.plot(*places[parent == vertex].T, "o", color="white", markeredgecolor="black", markersize=4, clip_on=False)
    return edges


def depths(
    parent: np.ndarray,  # [L], a root is its own parent
) -> np.ndarray:  # [L], int64
    """Return the number of edges between every vertex and its root."""
    ancestor, depth = parent, (parent != np.arange(len(parent))).astype(np.int64)
    # The distance to the ancestor doubles in each round.
    while (ancestor != ancestor[ancestor]).any():
        depth, ancestor = depth + depth[ancestor], ancestor[ancestor]
    return depth


def subtree_sizes(
    parent: np.ndarray,  # [L], a root is its own parent
    depth: np.ndarray,  # [L], see :func:`depths`
) -> np.ndarray:  # [L], int64
    """Return the number of vertices whose way to the root goes through each vertex, itself included."""
    size = np.ones(len(parent), dtype=np.int64)
    deepest_first = np.argsort(-depth, kind="stable")
    for level in np.split(deepest_first, np.flatnonzero(np.diff(depth[deepest_first])) + 1)[:-1]:  # without the roots
        np.add.at(size, parent[level], size[level])
    return size


@draw_choice.register
def _(chosen: GrownTree, axes: Axes, image: np.ndarray, sample: int = 0, title: str = "") -> None:
    draw_tree(axes, image, chosen.tree.parent[sample].cpu().numpy(), chosen.height, chosen.width, title)


def tree_figure(
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    trees: Mapping[str, WeighedTree],
    title: str = "",
    width: float = PAGE,
    columns: int | None = None,
) -> Figure:
    """Draw the image, and then the spanning tree of every block over it.

    Args:
        image: the first image of the recorded batch.
        trees: the result of :func:`record_trees`, or some entries of it.
        title: a line above the picture.
        width: of the picture in inches.
        columns: how many panels stand in a row. Fewer are larger. At most four if left out.
    """
    rows, columns = in_rows(1 + len(trees), columns or 4)
    sheet = Sheet(rows, columns, image.shape, width, title, [2] * rows, bar=True)
    show_image(sheet.panel(0, 0), image, "image")
    for i, (name, block) in enumerate(trees.items(), start=1):
        words = f"{caption(name)}\n{block.height} × {block.width} tokens"
        parent = block.tree.parent[0].cpu().numpy()
        edges = draw_tree(sheet.panel(*divmod(i, columns)), image, parent, block.height, block.width, words)
    if trees:
        sheet.add_colour_bar(edges, ends=("root", "farthest\nfrom root"))
    return sheet.figure


def affinity_maps(
    block: WeighedTree,
    pixel: tuple[float, float],
    image_shape: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:  # each [H, W]
    """Compute two affinity maps of the token under a pixel of the first image: through the tree, and row by row.

    Args:
        block: the tree of one block from :func:`record_trees`.
        pixel: row and column in the image.
        image_shape: H', W' of the image.

    Raises:
        ValueError: the pixel is outside the image.
    """
    vertex = token_at(pixel, block.height, block.width, image_shape)
    weight, tree = block.weight[:1], Tree(block.tree.parent[:1], block.tree.order[:1])
    maps = tree_affinity(weight, tree, vertex), raster_affinity(weight, vertex)
    through_tree, along_rows = (x.view(block.height, block.width).float().cpu().numpy() for x in maps)
    return through_tree, along_rows


def affinity_figure(
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    trees: Mapping[str, WeighedTree],
    pixels: Sequence[tuple[float, float]],
    title: str = "",
    width: float = PAGE,
    contrast: float = 1.0,
) -> Figure:
    """Draw two rows for each pixel: the image with a cross at the pixel, then both affinity maps of every block.

    All affinity maps have the same colour scale.

    Args:
        image: the first image of the recorded batch.
        trees: the result of :func:`record_trees`, or some entries of it.
        pixels: the row and the column of each pixel in the image.
        title: a line above the picture.
        width: of the picture in inches.
        contrast: exponent of the colour scale. Below 1, weak affinities are told apart better.

    Raises:
        ValueError: a pixel is outside the image.
    """
    rows, columns = 2 * len(pixels), 2 + len(trees)  # the image covers two rows and two columns
    sheet = Sheet(rows, columns, image.shape, width, title, [2], bar=True)
    ways = _WAYS if panel_width(columns, width, bar=True) > _ROOMY else _SHORT_WAYS
    for row, pixel in zip(range(0, rows, 2), pixels, strict=True):
        photo = sheet.panel(row, 0, 2, 2)
        show_image(photo, image, "" if row else "image")
        photo.set_anchor("N")
        draw_mark(photo, pixel)
        for column, (name, block) in enumerate(trees.items(), start=2):
            pair = sheet.panel(row, column), sheet.panel(row + 1, column)
            drawn = draw_affinities(pair, image, block, pixel, contrast=contrast)
            caption_panel(pair[0], "" if row else caption(name).replace(", ", "\n"))
            caption_panel(pair[1], "")
            if column == 2:
                for axes, way in zip(pair, ways, strict=True):
                    write_inside(axes, way, top=2 * pixel[0] > image.shape[0])
    if trees:
        sheet.add_colour_bar(drawn, "affinity")
    return sheet.figure


def draw_affinities(
    pair: tuple[Axes, Axes],
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    block: WeighedTree,
    pixel: tuple[float, float],
    title: str = "",
    contrast: float = 1.0,
) -> AxesImage:
    """Draw the two affinity maps of a pixel over the image in grey: through the tree, and row by row.

    Both have the same colour scale from 0 to 1, which is the affinity of the token to itself.

    Args:
        pair: the axes of the two maps.
        image: the image underneath.
        block: the tree of one block from :func:`record_trees`.
        pixel: row and column in the image.
        title: a caption.
        contrast: exponent of the colour scale. Below 1, weak affinities are told apart better.

    Returns:
        What a colour bar is made for, see :func:`ssm_core.visualization.add_colour_bar`.

    Raises:
        ValueError: the pixel is outside the image.
    """
    maps = affinity_maps(block, pixel, image.shape)
    for axes, values, way in zip(pair, maps, _WAYS, strict=True):
        words = f"{title}\n{way}".lstrip()
        drawn = draw_heat(axes, image, values, (0, 1), words, alpha=_OPACITY, contrast=contrast)
        draw_mark(axes, pixel)
    return drawn
