"""Derivatives of every mode and of higher orders, and torch.vmap, of the operators of both families on the CPU."""

import pytest
import torch
from oracles.derivative_cases import TREES, cases
from oracles.derivatives import assert_compiles, assert_same_derivatives, assert_vmap_is_a_loop
from oracles.trees import grid_tree, inputs, random_parents, stack
from torch import func
from torch.autograd import gradcheck, gradgradcheck

from quadtree_ssm.ops import quadtree_order
from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import Tree, grid_distances, grid_edges, minimum_spanning_tree, token_distances, tree_scan

BACKENDS = ["reference", "cpu"]
CASES = cases()
# Two of the norms stand for all six, and the mask at the scan's output for that at its input, which is its gradient.
COMPILED = [
    name
    for name in CASES
    if ("," not in name or name.endswith("random"))
    and (name in ("residual_layer_norm", "gated_layer_norm") or not name.endswith("_norm"))
    and name != "straight_through_input"
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_all_modes_are_those_of_the_definition(name, backend):
    case = CASES[name]
    assert_same_derivatives(case.function("cpu", backend), case.definition, case.arguments)


@pytest.mark.parametrize("name", CASES)
def test_gradcheck_in_both_modes_and_to_the_second_order(name):
    function = CASES[name].function("cpu", "auto")
    arguments = [x.clone().requires_grad_() for x in CASES[name].arguments]
    if name.startswith("straight"):  # its value does not depend on the soft mask, so differences see nothing of it
        arguments[1] = arguments[1].detach()
    assert gradcheck(function, arguments, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, arguments, check_fwd_over_rev=True)


@pytest.mark.parametrize("name", [name for name in CASES if "one vertex" not in name])
def test_vmap_is_a_loop_over_the_samples(name):
    case = CASES[name]
    for in_dims in case.in_dims:
        assert_vmap_is_a_loop(case.function("cpu", "auto"), case.arguments, in_dims)


@pytest.mark.parametrize("name", COMPILED)
def test_derivatives_compile(name):
    assert_compiles(CASES[name].function("cpu", "auto"), CASES[name].arguments)


def trees_of_samples(samples, batch, length):
    trees = [stack([random_parents(length, batch * i + j) for j in range(batch)]) for i in range(samples)]
    return torch.stack([tree.parent for tree in trees]), torch.stack([tree.order for tree in trees])


@pytest.mark.parametrize("direction", ["both", "up"])
@pytest.mark.parametrize("in_dims", [(0, 0, 0, 0), (None, None, 0, 0), (2, None, 1, 1)], ids=str)
def test_vmap_over_trees_is_a_loop(in_dims, direction):
    u, weight = torch.randn(2, 3, 2, 7, 4, dtype=torch.float64)
    full = (u, weight, *trees_of_samples(3, 2, 7))
    args = [x[0] if dim is None else x.movedim(0, dim) for x, dim in zip(full, in_dims, strict=True)]

    def gradients(u, weight, parent, order):
        def loss(u, weight):
            return tree_scan(u, weight, Tree(parent, order), direction).sin().sum()

        return func.grad(loss, (0, 1))(u, weight)

    mapped = func.vmap(gradients, in_dims)(*args)
    for i in range(3):
        alone = gradients(*(x if dim is None else x.select(dim, i) for x, dim in zip(args, in_dims, strict=True)))
        for a, e in zip(mapped, alone, strict=True):
            assert_close(a[i], e)


def test_references_refuse_trees_and_graphs_that_vmap_maps_over():
    parent, order = trees_of_samples(3, 2, 7)
    u = torch.ones(2, 7, 4)
    with pytest.raises(NotImplementedError, match="tree_scan: the reference reads the values of the tree, which torch"):
        func.vmap(lambda p, o: func.grad(lambda u: tree_scan(u, u, Tree(p, o), backend="reference").sum())(u))(
            parent, order
        )
    with pytest.raises(NotImplementedError, match="minimum_spanning_tree: the reference reads the values of the graph"):
        func.vmap(lambda w: minimum_spanning_tree(w, 2, 3, backend="reference").parent)(torch.rand(3, 1, 7))


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
@pytest.mark.parametrize("direction", ["both", "up"])
def test_half_types_are_as_good_as_the_reference(direction, dtypes):
    tree = grid_tree(2, 9, 8)
    u, weight = (x.detach() for x in inputs(tree, 5, *dtypes))
    tangents = tuple(x.detach() for x in inputs(tree, 5, *dtypes))

    def along(backend, *values):
        args, tangents = values[:2], values[2:]

        def scan(u, weight):
            return tree_scan(u, weight, tree, direction, backend)

        def loss(u, weight):
            return scan(u, weight).to(torch.promote_types(u.dtype, torch.float32)).square().mean()

        return func.jvp(scan, args, tangents)[1], *func.jvp(func.grad(loss, (0, 1)), args, tangents)[1]

    exact = along("reference", *(x.double() for x in (u, weight, *tangents)))
    same = along("reference", u, weight, *tangents)
    actual = along("cpu", u, weight, *tangents)
    for name, a, s, e in zip(("tangent", "of grad_u", "of grad_weight"), actual, same, exact, strict=True):
        assert a.dtype == s.dtype
        assert_as_good_as(a, s, e, name)


def test_the_roots_weight_has_no_derivative_whatever_it_is():
    tree = TREES["random"]
    u, weight = (x.detach() for x in inputs(tree, 3))
    root = (torch.arange(2), tree.order[:, 0])
    poisoned = weight.clone()
    poisoned[root] = float("nan")

    def products(weight):
        def gradient(u, weight):
            return func.grad(lambda u, w: tree_scan(u, w, tree).sin().sum(), (0, 1))(u, weight)

        return func.jvp(gradient, (u, weight), (u, torch.ones_like(u)))[1]

    for a, e in zip(products(poisoned), products(weight), strict=True):
        assert torch.equal(a, e)
    assert not products(poisoned)[1][root].any()


def test_trees_have_no_tangent_and_are_the_same_under_vmap():
    weight = torch.rand(3, 2, 17)
    roots = torch.randint(12, (3, 2))
    edges = grid_edges(3, 4)
    shuffled = torch.stack([edges[torch.randperm(17)] for _ in range(6)]).unflatten(0, (3, 2))
    for of_edges, edges_dim in ((edges, None), (shuffled[:, 0], 0), (shuffled, 0), (shuffled[0], None)):
        for root, root_dim in ((roots, 0), (roots[0], None), (roots.T, 1)):

            def tree(weight, edges, root):
                return tuple(minimum_spanning_tree(weight, edges=edges, num_vertices=12, root=root))

            mapped = func.vmap(tree, (0, edges_dim, root_dim))(weight, of_edges, root)
            for i in range(3):
                alone = tree(
                    weight[i],
                    of_edges if edges_dim is None else of_edges[i],
                    root if root_dim is None else root.select(root_dim, i),
                )
                assert all(torch.equal(a[i], e) for a, e in zip(mapped, alone, strict=True))
    grid = func.vmap(lambda w: tuple(minimum_spanning_tree(w, 3, 4)))(weight)
    alone = [minimum_spanning_tree(w, 3, 4) for w in weight]
    assert torch.equal(grid[0], torch.stack([tree.parent for tree in alone]))
    (parent, order), tangents = func.jvp(lambda w: tuple(minimum_spanning_tree(w, 3, 4)), (weight[0],), (weight[0],))
    assert parent.dtype == order.dtype == torch.int64
    assert not any(t.any() for t in tangents)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_orders_are_the_same_under_vmap(backend):
    choice = torch.randint(4, (3, 2))
    mapped = func.vmap(lambda c: quadtree_order(c, 5, 6, 2, (1, 0), backend))(choice)
    assert torch.equal(mapped, torch.stack([quadtree_order(c, 5, 6, 2, (1, 0)) for c in choice]))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_distances_of_a_grid_have_no_derivative_and_are_the_same_under_vmap(distance, backend):
    x = torch.randn(3, 2, 4, 3, 5, dtype=torch.float64)

    def distances(x):
        return grid_distances(x, distance, backend)

    assert_close(func.vmap(distances, 1)(x.transpose(0, 1)), torch.stack([distances(sample) for sample in x]))
    assert not func.jvp(distances, (x[0],), (x[0],))[1].any()
    assert not distances(x[0].requires_grad_()).requires_grad


def test_distances_of_tokens_have_no_derivative_and_are_the_same_under_vmap():
    x, delta = torch.randn(2, 3, 2, 7, 4, dtype=torch.float64)
    bias, B = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 2, 7, 2, dtype=torch.float64)
    start, end = torch.randint(0, 3, (3, 2)), torch.randint(3, 8, (3, 2))
    for of_bias in (0, None):
        args = (x, delta, bias if of_bias == 0 else bias[0], B, start, end)
        in_dims = (0, 0, of_bias, 0, 0, 0)
        mapped = func.vmap(token_distances, in_dims)(*args)
        for i in range(3):
            sample = (a if dim is None else a[i] for a, dim in zip(args, in_dims, strict=True))
            assert_close(mapped[i], token_distances(*sample))
    rest = (delta[0], bias[0], B[0], start[0], end[0])
    assert not func.jvp(lambda x: token_distances(x, *rest), (x[0],), (x[0],))[1].any()
