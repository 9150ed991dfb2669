"""Grows minimum spanning trees by Kruskal's algorithm in plain Python, and makes weights of the candidate edges."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Edge = tuple[int, int]


def kruskal(weights: Sequence[float], edges: Sequence[Sequence[int]], vertices: int) -> list[Edge]:
    """Take the edges in the order of (weight, index). Skip an edge whose ends are joined already."""
    component = list(range(vertices))

    def find(v: int) -> int:
        while component[v] != v:
            v = component[v]
        return v

    taken = []
    for _, index in sorted((weight, index) for index, weight in enumerate(weights)):
        a, b = edges[index]
        if find(a) != find(b):
            component[find(a)] = find(b)
            taken.append((a, b))
    return taken


def neighbours_of(tree: Iterable[Edge], vertices: int) -> list[list[int]]:
    """Return the neighbours of each vertex in a tree, in the order of their numbers."""
    neighbours: list[list[int]] = [[] for _ in range(vertices)]
    for a, b in tree:
        neighbours[a].append(b)
        neighbours[b].append(a)
    return [sorted(of_vertex) for of_vertex in neighbours]


def hang(tree: Iterable[Edge], vertices: int, root: int) -> tuple[list[int], list[int]]:
    """Return every vertex's parent, and the vertices breadth first.

    The root is its own parent. Children come in the order of their numbers.
    """
    neighbours = neighbours_of(tree, vertices)
    parent, order = {root: root}, [root]
    for v in order:
        for child in neighbours[v]:
            if child not in parent:
                parent[child] = v
                order.append(child)
    return [parent[v] for v in range(vertices)], order


def edge_weights(
    batch: int,
    count: int,
    kind: str,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return weights ``[B, E]``.

    "ties" gives many equal weights, "rising" makes one long chain of components, and other kinds give distinct weights.
    """
    if kind == "ties":
        return torch.randint(-2, 3, (batch, count), generator=generator).to(dtype)
    if kind == "rising":
        return torch.arange(count).expand(batch, -1).to(dtype).contiguous()
    return torch.randn(batch, count, generator=generator, dtype=torch.float64).to(dtype)
