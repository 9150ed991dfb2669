"""Pictures of MambaTree: the spanning tree of a block over its image, and what a pixel hears through it.

The affinity of two tokens is ∏ Ā over the path between them, the factor that the scan weighs the one with at the other
(MambaTree, section 3.2; its figures of affinity maps). A scan row by row has the path along the rows instead.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor, nn

from ssm_core.visualization import (
    caption,
    draw_choice,
    draw_heat,
    draw_mark,
    in_rows,
    panels,
    show_image,
    token_at,
    token_places,
)
from tree_ssm.modules import GrownTree, TreeScan
from tree_ssm.ops import Tree, tree_scan

TREE_COLOUR = "#ff7f0e"


class WeighedTree(NamedTuple):
    """The tree that a block's scan followed, with what its edges let pass."""

    tree: Tree  # vertices are the tokens of the map, row by row
    weight: Tensor  # [B, L, D], Ā of every token: of the edge to its parent; with N states, of N·D channels
    height: int
    width: int


@contextmanager
def record_trees(model: nn.Module) -> Iterator[dict[str, WeighedTree]]:
    """Record the tree of every tree scan, with weights, in the model's last forward pass within the context.

    As :func:`ssm_core.layers.record_scans`, which has the trees without their weights.

    Args:
        model: any module that contains tree scans.

    Yields:
        The dictionary that a forward pass fills: name of the scan module, in the order of execution, to its tree.
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
    """∏ weight over the edges of the path from a vertex to every other, averaged over the channels; 1 at the vertex.

    It is the tree scan of an impulse: h_i = Σ_j (∏ over the path from i to j) u_j with u = 1 at the vertex alone.

    Args:
        weight: of the edge from every vertex to its parent.
        tree: the tree.
        vertex: where the paths start.

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
    """The affinity that the same weights give along the rows: ∏ weight of the tokens after the earlier of the two.

    That is what a scan row by row, and its reverse, would weigh one token with at the other. See :func:`tree_affinity`.

    Args:
        weight: of the step from every token's predecessor to it.
        vertex: where the paths start.

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
    places, vertex = token_places(height, width, image.shape), np.arange(height * width)
    child = vertex[parent != vertex]
    segments = np.stack([places[child], places[parent[child]]], axis=1)
    thickness = float(np.clip(16 / width, 0.4, 1.2))
    axes.add_collection(LineCollection(list(segments), colors=TREE_COLOUR, linewidths=thickness))
    axes.plot(*places[parent == vertex].T, "o", color=TREE_COLOUR, markersize=3)


@draw_choice.register
def _(chosen: GrownTree, axes: Axes, image: np.ndarray, sample: int = 0, title: str = "") -> None:
    draw_tree(axes, image, chosen.tree.parent[sample].cpu().numpy(), chosen.height, chosen.width, title)


def tree_figure(
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    trees: Mapping[str, WeighedTree],
    title: str = "",
) -> Figure:
    """The image, and the spanning tree of every block over it.

    Args:
        image: the first image of the batch that the trees were recorded of.
        trees: of :func:`record_trees`, or some of them.
        title: what is said above the picture.
    """
    figure, grid = panels(*in_rows(1 + len(trees)), image.shape, title=title)
    show_image(grid.flat[0], image, "image")
    for axes, (name, block) in zip(grid.flat[1:], trees.items(), strict=False):
        draw_tree(axes, image, block.tree.parent[0].cpu().numpy(), block.height, block.width, caption(name))
    return figure


def affinity_maps(
    block: WeighedTree,
    pixel: tuple[float, float],
    image_shape: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:  # each [H, W]
    """What the token under a pixel of the first image hears: through the tree, and row by row.

    Args:
        block: of :func:`record_trees`.
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
) -> Figure:
    """A row for every pixel: the image with a cross there, and for every block both affinity maps on one scale.

    Args:
        image: the first image of the batch that the trees were recorded of.
        trees: of :func:`record_trees`, or some of them.
        pixels: rows and columns in the image.
        title: what is said above the picture.

    Raises:
        ValueError: a pixel is outside the image.
    """
    figure, grid = panels(len(pixels), 1 + 2 * len(trees), image.shape, title=title)
    for row, pixel in zip(grid, pixels, strict=True):
        show_image(row[0], image, "image")
        draw_mark(row[0], pixel)
        for i, (name, block) in enumerate(trees.items()):
            draw_affinities((row[1 + 2 * i], row[2 + 2 * i]), image, block, pixel, caption(name))
    return figure


def draw_affinities(
    pair: tuple[Axes, Axes],
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    block: WeighedTree,
    pixel: tuple[float, float],
    title: str = "",
) -> None:
    """Draw a pixel's two affinity maps, through the tree and row by row, on one scale from 0 to the token's own 1.

    Args:
        pair: where to draw the one and the other.
        image: gives the panels their shape.
        block: of :func:`record_trees`.
        pixel: row and column in the image.
        title: a caption.

    Raises:
        ValueError: the pixel is outside the image.
    """
    maps = affinity_maps(block, pixel, image.shape)
    for axes, values, way in zip(pair, maps, ("through the tree", "row by row"), strict=True):
        draw_heat(axes, image, values, limits=(0, 1), title=f"{title}\n{way}")
        draw_mark(axes, pixel)
