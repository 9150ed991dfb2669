"""Tree scan: the linear recurrence of a state space model along a rooted tree instead of a sequence.

It takes time linear in the number of vertices. Input and weights have gradients. The README of this folder has the
maths of the forward and the backward pass.
"""

from typing import Literal

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.calling import call
from ssm_core.ops.checks import FLOATS, accumulate_dtype, require_same_device, shape_of
from tree_ssm.ops.spanning_tree import Tree

from . import register as _register  # noqa: F401  registers the operator's rules
from .reference import tree_scan_reference

Direction = Literal["both", "up"]


def tree_scan(
    u: Tensor,  # [B, L, D]
    weight: Tensor,  # [B, L, D]
    tree: Tree,
    direction: Direction = "both",
    backend: Backend = "auto",
) -> Tensor:
    """Compute h_i = Σ_j (∏ weight over the edges of the path from i to j) · u_j in O(L) (MambaTree, section 3.2).

    The edge between a vertex and its parent carries the vertex's own weight, channel by channel. The root's weight is
    not used and has gradient 0. Half types are computed in float32.

    Args:
        u: input at every vertex.
        weight: weight of the edge from every vertex to its parent, in the dtype of ``u``, or in float32 beside a half
            type. Half types cannot hold weights that are close to 1.
        tree: parent and order, as :func:`~tree_ssm.ops.minimum_spanning_tree` gives them. Any order will do that lists
            parents before their children.
        direction: ``"both"`` for the sum over the whole tree; ``"up"`` for the pass from the leaves to the root alone,
            in which j runs over the vertices below i.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one.

    Returns:
        h ``[B, L, D]`` in the dtype of ``u``.

    Raises:
        ValueError: an argument does not fit, or ``tree`` is no tree; the message says which. The GPU kernel does not
            check the tree, since raising an error would mean waiting for the device. Its results then have no meaning,
            and are zero at vertices that its walk does not visit.
    """
    _check(u, weight, tree, direction)
    both = direction == "both"
    chosen = choose_backend("tree_scan", "tree_ssm::tree_scan", backend, u.device)
    if chosen == "reference":
        return tree_scan_reference(u, weight, tree.parent, tree.order, both)
    schedule = torch.ops.tree_ssm.tree_schedule(tree.parent) if chosen == "cuda" else None
    return call(torch.ops.tree_ssm.tree_scan, u, weight, tree.parent, tree.order, both, schedule)


def _check(u: Tensor, weight: Tensor, tree: Tree, direction: str) -> None:
    if u.dim() != 3 or u.shape[1] < 1:
        raise ValueError(f"tree_scan: u must be [B, L, D] with L at least 1, got {shape_of(u)}")
    if u.dtype not in FLOATS:
        raise ValueError(f"tree_scan: u must be a real floating-point tensor, got {u.dtype}")
    if weight.shape != u.shape:
        raise ValueError(f"tree_scan: weight must have u's shape {shape_of(u)}, got {shape_of(weight)}")
    if weight.dtype not in (u.dtype, accumulate_dtype(u.dtype)):
        wide = accumulate_dtype(u.dtype)
        allowed = f"{u.dtype}" if u.dtype == wide else f"{u.dtype} or {wide}"
        raise ValueError(f"tree_scan: weight must be {allowed} beside an u of {u.dtype}, got {weight.dtype}")
    for name, x in (("tree.parent", tree.parent), ("tree.order", tree.order)):
        if x.dtype != torch.int64 or x.shape != u.shape[:2]:
            raise ValueError(f"tree_scan: {name} must be int64 [B, L] = {shape_of(u)[:2]}, got {x.dtype} {shape_of(x)}")
    if direction not in ("both", "up"):
        raise ValueError(f"tree_scan: direction must be 'both' or 'up', got {direction!r}")
    require_same_device("tree_scan", u=u, weight=weight, parent=tree.parent, order=tree.order)


__all__ = ["tree_scan", "tree_scan_reference"]
