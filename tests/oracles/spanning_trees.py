"""Minimum spanning trees by Kruskal's algorithm in plain Python, and weights of the edges to choose from."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Edge = tuple[int, int]


def kruskal(weights: Sequence[float], edges: Sequence[Sequence[int]], vertices: int) -> list[Edge]:
    """The definition, read literally: take edges by (weight, index) unless their ends are joined already."""
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
    """The vertices that a tree's edges join to each vertex, by their number."""
    neighbours: list[list[int]] = [[] for _ in range(vertices)]
    for a, b in tree:
        neighbours[a].append(b)
        neighbours[b].append(a)
    return [sorted(of_vertex) for of_vertex in neighbours]


def hang(tree: Iterable[Edge], vertices: int, root: int) -> tuple[list[int], list[int]]:
    """Every vertex's parent, the root its own, and the vertices breadth first; children come by their number."""
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
    """Weights ``[B, E]``: "ties" has many equal ones, "rising" makes one long chain of components, else "distinct"."""
    if kind == "ties":
        return torch.randint(-2, 3, (batch, count), generator=generator).to(dtype)
    if kind == "rising":
        return torch.arange(count).expand(batch, -1).to(dtype).contiguous()
    return torch.randn(batch, count, generator=generator, dtype=torch.float64).to(dtype)
