"""Minimum spanning trees in plain PyTorch, all samples at once: the definition that kernels are tested against."""

import torch
from torch import Tensor

from ssm_core.ops.checks import require_integers
from ssm_core.ops.vmap import refuse_mapped

from .faults import Fault, raise_fault


def grid_edges(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """List the edges of the 4-connected grid: all vertical ones row by row, then all horizontal ones row by row.

    Args:
        height: rows.
        width: columns.
        device: the device of the result.

    Returns:
        ``[E, 2]``, int64, with E = (H - 1)·W + H·(W - 1). Vertices are numbered row by row, and the smaller end comes
        first.

    Raises:
        ValueError: the grid has no vertex, or 2^31 or more, or a size is no integer.
    """
    require_integers("grid_edges", height=height, width=width)
    if height < 1 or width < 1 or height * width >= 2**31:
        raise ValueError(f"grid_edges: the grid must have 1 to 2^31 - 1 vertices, got {height}×{width}")
    vertex = torch.arange(height * width, device=device).view(height, width)
    vertical = torch.stack([vertex[:-1], vertex[1:]], dim=-1).flatten(0, 1)
    horizontal = torch.stack([vertex[:, :-1], vertex[:, 1:]], dim=-1).flatten(0, 1)
    return torch.cat([vertical, horizontal])


def minimum_spanning_tree_reference(
    edge_weight: Tensor,  # [B, E]
    edges: Tensor | None,  # [E, 2] or [B, E, 2]
    height: int,
    width: int,
    root: Tensor,  # [B]
) -> tuple[Tensor, Tensor]:
    """Parent and breadth-first order, both ``[B, L]``, of the tree that Borůvka's rounds find.

    All samples together are one graph, in which vertex v of sample b has the number b·L + v.
    """
    refuse_mapped("minimum_spanning_tree", "the graph", edge_weight, edges, root)
    batch, num_edges = edge_weight.shape
    length = height * width
    if edges is None:
        edges = grid_edges(height, width, edge_weight.device)
    edges = edges.expand(batch, num_edges, 2)
    _raise_first_fault(edge_weight, edges, root, length)
    first_vertex = torch.arange(batch, device=edges.device) * length

    # From here on only the rank of an edge counts. The stable sort breaks ties by the edge index. Adding 0 turns -0
    # into 0, since some sorts tell them apart.
    by_rank = (edge_weight + 0.0).sort(dim=1, stable=True).indices.unsqueeze(-1)
    ends = edges.gather(1, by_rank.expand(-1, -1, 2)) + first_vertex.view(-1, 1, 1)
    chosen = boruvka(ends.flatten(0, 1), batch * length)
    for sample, count in enumerate(torch.bincount(chosen[:, 0] // length, minlength=batch).tolist()):
        if count != length - 1:
            raise_fault(Fault.DISCONNECTED, sample, -1)

    parent, order = breadth_first(chosen, root + first_vertex, batch * length)
    # A level holds vertices of all samples. The stable sort by sample keeps the order within each.
    order = order[torch.argsort(order // length, stable=True)]
    return parent.view(batch, length) % length, order.view(batch, length) % length


def boruvka(
    ends: Tensor,  # [E, 2]
    num_vertices: int,
) -> Tensor:
    """The edges ``[F, 2]`` of the minimum spanning forest, from edges listed by ascending weight.

    In every round each component takes the lightest edge that leaves it, and components joined by these become one.
    """
    vertices = torch.arange(num_vertices, device=ends.device)
    component = vertices  # named by one of its vertices
    rank = torch.arange(len(ends), device=ends.device)
    taken = torch.zeros(len(ends), dtype=torch.bool, device=ends.device)
    while True:
        a, b = component[ends[rank]].unbind(-1)
        rank, a, b = rank[a != b], a[a != b], b[a != b]
        if len(rank) == 0:
            return ends[taken]
        place = torch.arange(len(rank), device=ends.device)
        lightest = torch.full_like(vertices, len(rank))
        lightest = lightest.scatter_reduce(0, a, place, "amin").scatter_reduce(0, b, place, "amin")
        grows = lightest < len(rank)
        edge = lightest[grows]
        taken[rank[edge]] = True
        hook = vertices.clone()
        hook[grows] = a[edge] + b[edge] - vertices[grows]  # the other end
        # Ranks are distinct, so the only cycles are pairs that took the same edge. The smaller of the two is the root.
        hook = torch.where((hook[hook] == vertices) & (vertices < hook), vertices, hook)
        while not torch.equal(hook, hook[hook]):
            hook = hook[hook]
        component = hook[component]


def breadth_first(
    tree: Tensor,  # [F, 2]
    roots: Tensor,  # [B]
    num_vertices: int,
) -> tuple[Tensor, Tensor]:
    """The parent of every vertex of a forest, and the vertices level by level; children come by their number."""
    source, target = torch.cat([tree, tree.flip(1)]).unbind(-1)
    by_source_then_target = torch.argsort(source * num_vertices + target)
    source, target = source[by_source_then_target], target[by_source_then_target]
    degree = torch.bincount(source, minlength=num_vertices)
    first_edge = degree.cumsum(0) - degree
    parent = torch.empty(num_vertices, dtype=torch.int64, device=tree.device)
    parent[roots] = roots
    level, levels = roots, [roots]
    while len(level):
        above = level.repeat_interleave(degree[level])
        skipped = (degree[level].cumsum(0) - degree[level]).repeat_interleave(degree[level])
        below = target[first_edge[above] + torch.arange(len(above), device=tree.device) - skipped]
        is_child = below != parent[above]
        level = below[is_child]
        parent[level] = above[is_child]
        levels.append(level)
    return parent, torch.cat(levels)


def _raise_first_fault(edge_weight: Tensor, edges: Tensor, root: Tensor, length: int) -> None:
    """Raise for the first sample with a root or edge that is no vertex, or a weight that is not finite."""
    faults = {
        Fault.ROOT: ((root < 0) | (root >= length)).unsqueeze(1),
        Fault.EDGE: ((edges < 0) | (edges >= length)).any(-1),
        Fault.WEIGHT: ~edge_weight.isfinite(),
    }
    first = min(
        ((*where, fault) for fault, mask in faults.items() for where in mask.nonzero()[:1].tolist()),
        key=lambda found: (found[0], found[2]),
        default=None,
    )
    if first is not None:
        sample, where, fault = first
        raise_fault(fault, sample, int(root[sample]) if fault is Fault.ROOT else where)
