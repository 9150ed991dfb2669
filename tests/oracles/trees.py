"""Makes the trees and inputs, and computes the dense sum, that the tests of the scans along trees share."""

from functools import partial

import torch
from oracles.gradients import with_gradients
from oracles.grid import num_edges

from tree_ssm.ops import Tree, minimum_spanning_tree, tree_scan


def _children(parent):
    """Return the children of every vertex in the order of their numbers, and the root."""
    children = [[] for _ in parent]
    for v, p in enumerate(parent):
        if v != p:
            children[p].append(v)
    return children, next(v for v, p in enumerate(parent) if v == p)


def breadth_first(parent):
    """Return the breadth-first order of a tree, which is given by its parents."""
    children, root = _children(parent)
    order = [root]
    for v in order:
        order += children[v]
    return order


def depth_first(parent):
    """Return a depth-first order, in which parents also come before their children."""
    children, root = _children(parent)
    waiting, order = [root], []
    while waiting:
        order.append(waiting.pop())
        waiting += children[order[-1]]
    return order


def stack(parents, order=breadth_first):
    """Return a batch of trees of one size. Each tree is given by its parents."""
    return Tree(torch.tensor(parents), torch.tensor([order(parent) for parent in parents]))


def to_cuda(tree):
    return Tree(*(x.cuda() for x in tree))


def random_parents(length, seed):
    """Return the parents of a random tree. Each vertex hangs from an earlier one, and the numbers are shuffled."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.randperm(length, generator=generator).tolist()
    parent = [0] * length
    for place in range(length):
        above = int(torch.randint(place, (), generator=generator)) if place else 0
        parent[names[place]] = names[above]
    return parent


def grid_tree(batch, height, width, seed=0):
    """Return the spanning trees of a grid with random weights."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(batch, num_edges(height, width), generator=generator)
    return minimum_spanning_tree(weight, height, width, root=height * width // 3)


# Trees that are small enough for the dense sum.
TREES = {
    "one vertex": stack([[0], [0]]),
    "two vertices": stack([[0, 0], [1, 1]]),
    "chains": stack([[0, 0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 6]]),
    "stars": stack([[0] * 7, [3] * 7]),
    "random": stack([random_parents(11, seed) for seed in range(5)]),
}
# Trees for comparing kernels with each other. Most have more vertices than a warp has threads.
LONGER_TREES = {
    "one vertex": TREES["one vertex"],
    "two vertices": TREES["two vertices"],
    "chains": TREES["chains"],
    "long chain": stack([[max(v - 1, 0) for v in range(333)]]),
    "star": stack([[3] * 77]),
    "caterpillar": stack([[max(v - 1, 0) if v < 40 else v % 40 for v in range(200)]]),
    "random": stack([random_parents(50, seed) for seed in range(4)]),
    "grid": grid_tree(3, 17, 13),
}


def renumbered(parent, seed=0):
    """Return the same tree with shuffled vertex numbers."""
    names = torch.randperm(len(parent), generator=torch.Generator().manual_seed(seed)).tolist()
    result = [0] * len(parent)
    for v, above in enumerate(parent):
        result[names[v]] = names[above]
    return result


def large_trees():
    """Return the parents of two trees of each kind, which a GPU cuts into pieces.

    Kinds are a path, a star, a comb with long teeth, a spider with many long legs, and a random tree.
    """
    kinds = {
        "snake": [max(v - 1, 0) for v in range(9000)],
        "star": [0] * 3000,
        "comb": [max(v - 1 if v % 111 else v - 111, 0) for v in range(90 * 111)],
        "spider": [0 if v % 150 == 1 else max(v - 1, 0) for v in range(6000)],
        "random": random_parents(4000, 0),
    }
    return {name: (parent, renumbered(parent)) for name, parent in kinds.items()}


def inputs(tree, channels, dtype=torch.float64, weight_dtype=None, grad=True):
    """Return u and weight ``[B, L, D]`` of the tree scan."""
    shape = (*tree.parent.shape, channels)
    u = torch.randn(shape, dtype=torch.float64).to(dtype)
    weight = torch.rand(shape, dtype=torch.float64).mul(1.4).sub(0.3).to(weight_dtype or dtype)
    return u.requires_grad_(grad), weight.requires_grad_(grad)


def scan_and_gradients(u, weight, tree, direction, backend, g=None):
    """Return the tree scan's result and gradients by name. Without the upstream gradient ``g``, a fixed one is used."""
    if g is None:
        g = torch.cos(torch.arange(u.numel(), dtype=torch.float64)).view(u.shape).to(u)
    scan = partial(tree_scan, tree=tree, direction=direction, backend=backend)
    return dict(zip(("h", "grad_u", "grad_weight"), with_gradients(scan, (u, weight), g), strict=True))


SELECTIVE_NAMES = ("h", "grad_x", "grad_delta", "grad_A", "grad_B", "grad_delta_bias")


def selective_arguments(tree, channels, dtype=torch.float64):
    """Return x, delta, A, B and delta_bias of the selective tree scan, all with gradients."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, delta = torch.randn(2, *tree.parent.shape, channels, dtype=torch.float64)
    B, A, bias = torch.randn(tree.parent.shape), -torch.rand(channels) - 0.1, torch.randn(channels) - 2
    wanted = ((x, dtype), (delta, dtype), (A, wide), (B, dtype), (bias, wide))
    return [value.to(to).requires_grad_() for value, to in wanted]


def brute_force(u, weight, tree, direction):
    """Return the dense sum over all pairs of vertices. A pair's factor is the product of the weights on its path."""
    batch, length, _ = u.shape
    rows = []
    for b in range(batch):
        parent = tree.parent.tolist()[b]

        def ancestors(v, parent=parent):
            path = [v]
            while parent[path[-1]] != path[-1]:
                path.append(parent[path[-1]])
            return path

        for i in range(length):
            total = torch.zeros_like(u[b, i])
            for j in range(length):
                up_i, up_j = ancestors(i), ancestors(j)
                if direction == "up" and i not in up_j:
                    continue
                # The path consists of the edges on exactly one of the two ways to the root. A child names its edge.
                product = torch.ones_like(total)
                for v in set(up_i) ^ set(up_j):
                    product = product * weight[b, v]
                total = total + product * u[b, j]
            rows.append(total)
    return torch.stack(rows).view_as(u)
