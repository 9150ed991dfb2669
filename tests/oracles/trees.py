"""Trees, inputs and the dense sum that the tests of the tree scan share."""

import torch

from tree_ssm.ops import Tree, minimum_spanning_tree, tree_scan


def breadth_first(parent):
    """Order of one tree given by its parents."""
    root = next(v for v, p in enumerate(parent) if v == p)
    order = [root]
    for v in order:
        order += [c for c in range(len(parent)) if parent[c] == v and c != root]
    return order


def stack(parents):
    return Tree(torch.tensor(parents), torch.tensor([breadth_first(p) for p in parents]))


def random_parents(length, seed):
    """Every vertex but the root hangs from one that was placed before it; the numbers are shuffled."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.randperm(length, generator=generator).tolist()
    parent = [0] * length
    for place in range(length):
        above = int(torch.randint(place, (), generator=generator)) if place else 0
        parent[names[place]] = names[above]
    return parent


TREES = {
    "one vertex": stack([[0], [0]]),
    "two vertices": stack([[0, 0], [1, 1]]),
    "chains": stack([[0, 0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 6]]),
    "stars": stack([[0] * 7, [3] * 7]),
    "random": stack([random_parents(11, seed) for seed in range(5)]),
}


def renumbered(parent, seed=0):
    """The same tree with shuffled numbers."""
    names = torch.randperm(len(parent), generator=torch.Generator().manual_seed(seed)).tolist()
    result = [0] * len(parent)
    for v, above in enumerate(parent):
        result[names[v]] = names[above]
    return result


def large_trees():
    """Trees that a GPU cuts into pieces: without a fork, all forks at once, long teeth, many branches at one vertex."""
    kinds = {
        "snake": [max(v - 1, 0) for v in range(9000)],
        "star": [0] * 3000,
        "comb": [max(v - 1 if v % 111 else v - 111, 0) for v in range(90 * 111)],
        "spider": [0 if v % 150 == 1 else max(v - 1, 0) for v in range(6000)],
        "random": random_parents(4000, 0),
    }
    return {name: (parent, renumbered(parent)) for name, parent in kinds.items()}


def large_tree(parents):
    """Two samples, in breadth-first order."""
    orders = []
    for parent in parents:
        children = [[] for _ in parent]
        order = [next(v for v, p in enumerate(parent) if v == p)]
        for v, p in enumerate(parent):
            if v != p:
                children[p].append(v)
        for v in order:
            order += children[v]
        orders.append(order)
    return Tree(torch.tensor(parents), torch.tensor(orders))


def grid_tree(batch, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(batch, (height - 1) * width + height * (width - 1), generator=generator)
    return minimum_spanning_tree(weight, height, width, root=height * width // 3)


def inputs(tree, channels, dtype=torch.float64, weight_dtype=None, grad=True):
    shape = (*tree.parent.shape, channels)
    u = torch.randn(shape, dtype=torch.float64).to(dtype)
    weight = torch.rand(shape, dtype=torch.float64).mul(1.4).sub(0.3).to(weight_dtype or dtype)
    return u.requires_grad_(grad), weight.requires_grad_(grad)


def scan_and_gradients(u, weight, tree, direction, backend, g=None):
    h = tree_scan(u, weight, tree, direction, backend)
    g = torch.cos(torch.arange(h.numel(), dtype=torch.float64)).view_as(h).to(h.dtype) if g is None else g
    gradients = torch.autograd.grad(h, (u, weight), g, materialize_grads=True)
    return {"h": h, "grad_u": gradients[0], "grad_weight": gradients[1]}


def brute_force(u, weight, tree, direction):
    """The dense sum: every pair of vertices, the product over the edges of the path between them."""
    batch, length, _ = u.shape
    rows = []
    for b in range(batch):
        parent = tree.parent[b].tolist()

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
                # The edges on exactly one of the two ways to the root, each named by its child.
                product = torch.ones_like(total)
                for v in set(up_i) ^ set(up_j):
                    product = product * weight[b, v]
                total = total + product * u[b, j]
            rows.append(total)
    return torch.stack(rows).view_as(u)
