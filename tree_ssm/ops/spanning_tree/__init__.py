"""Minimum spanning trees of many small graphs at once, rooted and in breadth-first order.

The results are integers, and no gradient passes. The README of this folder has the method and its proof.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.calling import call
from ssm_core.ops.checks import FLOATS, require_integers, require_same_device, shape_of

from . import register as _register  # noqa: F401  registers the operators' rules
from .reference import grid_edges, minimum_spanning_tree_reference

_OP = "minimum_spanning_tree"


class Tree(NamedTuple):
    """A rooted spanning tree for each sample. Later versions may add fields at the end: read them by name.

    Attributes:
        parent: ``[B, L]``, int64; for every vertex the one above it, and for the root itself.
        order: ``[B, L]``, int64; every vertex once, breadth first from the root. Parents come before their children,
            and the children of one vertex by their number.
    """

    parent: Tensor  # [B, L]
    order: Tensor  # [B, L]


def minimum_spanning_tree(
    edge_weight: Tensor,  # [B, E]
    height: int | None = None,
    width: int | None = None,
    *,
    edges: Tensor | None = None,  # [E, 2] or [B, E, 2]
    num_vertices: int | None = None,
    root: int | Tensor = 0,  # [B]
    backend: Backend = "auto",
) -> Tree:
    """Find every sample's minimum spanning tree (MambaTree, section 3.2), which is unique: the edge index breaks ties.

    The graph is either the 4-connected ``height`` × ``width`` grid, with the edges of :func:`grid_edges`, or the list
    ``edges`` over ``num_vertices`` vertices. If a list repeats an edge, the lightest counts. An edge from a vertex to
    itself is allowed and never in a tree.

    Args:
        edge_weight: weight of each edge, in any real dtype. Half types are compared exactly, and -0 equals 0.
        height: rows of the grid.
        width: columns of the grid.
        edges: the two ends of each edge, int64, for all samples or for each.
        num_vertices: L, for a list of edges.
        root: the vertex that the tree hangs from, one for all samples or one for each.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one.

    Returns:
        The trees; L = ``height`` · ``width`` or ``num_vertices``.

    Raises:
        ValueError: an argument does not fit, a graph is not connected, or an edge or root is no vertex; the message
            names the argument or the sample.
        ssm_core.errors.NonFiniteError: a weight is NaN or infinite; the message names the sample and the edge.

    The GPU kernel raises no error about values, since that would mean waiting for the device. There an infinite weight
    counts as it stands, and NaN as more than infinity. An edge with an end that is no vertex does not exist. A root
    that is no vertex becomes vertex 0. Vertices that the root does not reach hang from it and are last in the order.
    """
    if edges is None:
        num_edges, height, width = _check_grid(height, width, num_vertices)
    else:
        num_edges, height, width = _check_edges(edges, edge_weight, height, width, num_vertices)
    if edge_weight.dim() != 2 or edge_weight.shape[1] != num_edges:
        raise ValueError(f"{_OP}: edge_weight must be [B, E] with E = {num_edges}, got {shape_of(edge_weight)}")
    if edge_weight.dtype not in FLOATS:
        raise ValueError(f"{_OP}: edge_weight must be floating point, got {edge_weight.dtype}")
    edge_weight = edge_weight.detach()
    roots = _roots(root, edge_weight, height * width)
    require_same_device(_OP, edge_weight=edge_weight, edges=edges, root=roots)
    if choose_backend(_OP, f"tree_ssm::{_OP}", backend, edge_weight.device) == "reference":
        return Tree(*minimum_spanning_tree_reference(edge_weight, edges, height, width, roots))
    return Tree(*call(torch.ops.tree_ssm.minimum_spanning_tree, edge_weight, edges, height, width, roots))


def _check_grid(height: int | None, width: int | None, num_vertices: int | None) -> tuple[int, int, int]:
    """The number of the grid's edges, its height and its width."""
    if height is None or width is None or num_vertices is not None:
        raise ValueError(f"{_OP}: give either height and width, or edges and num_vertices")
    require_integers(_OP, height=height, width=width)
    if height < 1 or width < 1:
        raise ValueError(f"{_OP}: the grid must be at least 1×1, got {height}×{width}")
    return (height - 1) * width + height * (width - 1), height, width


def _check_edges(
    edges: Tensor, edge_weight: Tensor, height: int | None, width: int | None, num_vertices: int | None
) -> tuple[int, int, int]:
    """The number of listed edges, and the vertices as a column: their number and 1."""
    if height is not None or width is not None or num_vertices is None:
        raise ValueError(f"{_OP}: give either height and width, or edges and num_vertices")
    require_integers(_OP, num_vertices=num_vertices)
    if num_vertices < 1:
        raise ValueError(f"{_OP}: num_vertices must be at least 1, got {num_vertices}")
    batch = edge_weight.shape[:1]
    fits = edges.dtype == torch.int64 and edges.dim() in (2, 3) and edges.shape[-1] == 2
    if not fits or (edges.dim() == 3 and edges.shape[:1] != batch):
        raise ValueError(
            f"{_OP}: edges must be int64 [E, 2] or [B, E, 2] beside an edge_weight of {shape_of(edge_weight)}, "
            f"got {edges.dtype} {shape_of(edges)}"
        )
    num_edges = edges.shape[-2]
    if num_edges < num_vertices - 1:
        raise ValueError(
            f"{_OP}: the graph is not connected, since {num_edges} edges cannot join {num_vertices} vertices; add edges"
        )
    return num_edges, num_vertices, 1


def _roots(root: int | Tensor, edge_weight: Tensor, num_vertices: int) -> Tensor:
    """The root of every sample, ``[B]``."""
    batch = edge_weight.shape[0]
    if not isinstance(root, Tensor):
        require_integers(_OP, root=root)
        if not 0 <= root < num_vertices:
            raise ValueError(f"{_OP}: root must be a vertex, 0 … {num_vertices - 1}, got {root}")
        return torch.full((batch,), root, dtype=torch.int64, device=edge_weight.device)
    if root.dtype != torch.int64 or root.shape != (batch,):
        raise ValueError(f"{_OP}: root must be an int or int64 [B], B = {batch}, got {root.dtype} {shape_of(root)}")
    return root


__all__ = ["Tree", "grid_edges", "minimum_spanning_tree", "minimum_spanning_tree_reference"]
