"""The tree scan in plain PyTorch, level by level: the definition that kernels are tested against."""

import torch
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype
from ssm_core.ops.vmap import refuse_mapped


def tree_scan_reference(
    u: Tensor,  # [B, L, D]
    weight: Tensor,  # [B, L, D]
    parent: Tensor,  # [B, L]
    order: Tensor,  # [B, L]
    both: bool,
) -> Tensor:
    """Pass up: ξ_i = u_i + Σ_children w_c ξ_c. Pass down, if ``both``: h_i = ξ_i + w_i (h_parent - w_i ξ_i).

    Vertices of one depth do not depend on each other. So the vertices of all samples are sorted by depth, and each pass
    is a loop over the levels.

    Returns:
        h, or ξ without ``both``, ``[B, L, D]``.
    """
    check_tree(parent, order)
    batch, length, channels = u.shape
    first_vertex = torch.arange(batch, device=parent.device).unsqueeze(1) * length
    parent = (parent + first_vertex).flatten()
    depth = depths(parent)
    by_depth = torch.argsort(depth, stable=True)
    size = torch.bincount(depth, minlength=1)
    sizes = size.tolist()
    place = torch.argsort(by_depth) - (size.cumsum(0) - size)[depth]  # of each vertex within its level
    parents = place[parent[by_depth]].split(sizes)

    dtype = accumulate_dtype(u.dtype)
    w = weight.to(dtype).flatten(0, 1)[by_depth].split(sizes)
    xi = list(u.to(dtype).flatten(0, 1)[by_depth].split(sizes))
    for d in range(len(sizes) - 1, 0, -1):
        xi[d - 1] = xi[d - 1].index_add(0, parents[d], w[d] * xi[d])
    h = xi
    if both:
        for d in range(1, len(sizes)):
            h[d] = xi[d] + w[d] * (h[d - 1][parents[d]] - w[d] * xi[d])
    return torch.cat(h)[torch.argsort(by_depth)].view(batch, length, channels).to(u.dtype)


def depths(
    parent: Tensor,  # [V]
) -> Tensor:
    """The distance of every vertex to its root, ``[V]``. The known part of each path doubles in every round."""
    depth = (parent != torch.arange(len(parent), device=parent.device)).long()
    ancestor = parent
    while not torch.equal(ancestor, ancestor[ancestor]):
        depth = depth + depth[ancestor]
        ancestor = ancestor[ancestor]
    return depth


def check_tree(
    parent: Tensor,  # [B, L]
    order: Tensor,  # [B, L]
) -> None:
    """Raise ``ValueError`` unless the order lists every vertex once, and parents before their children."""
    refuse_mapped("tree_scan", "the tree", parent, order)
    vertices = torch.arange(order.shape[1], device=order.device).expand_as(order)
    fits = (order.sort(1).values == vertices).all(1) & ((parent >= 0) & (parent < order.shape[1])).all(1)
    place = torch.empty_like(order).scatter(1, torch.where(fits.unsqueeze(1), order, vertices), vertices)
    of_parent = place.gather(1, torch.where(fits.unsqueeze(1), parent, vertices))
    is_root = place == 0
    fits &= torch.where(is_root, parent == vertices, of_parent < place).all(1)
    if not fits.all():
        sample = int((~fits).nonzero()[0])
        raise ValueError(
            f"tree_scan: tree is not a tree in sample {sample}: its order must list every vertex once, parents before "
            "their children, and begin with the root, its own parent"
        )
