"""Derivatives of every mode and of higher orders, and torch.vmap, of the operators of both families on the GPU."""

from functools import partial

import pytest
import torch
from oracles.derivative_cases import cases
from oracles.derivatives import assert_compiles, assert_same_derivatives, assert_vmap_is_a_loop, waves
from oracles.trees import grid_tree, inputs, selective_arguments, to_cuda
from torch import func
from torch.autograd import gradcheck, gradgradcheck

from quadtree_ssm.ops import quadtree_order
from ssm_core.testing import assert_close
from tree_ssm.ops import Tree, grid_distances, minimum_spanning_tree, selective_tree_scan, token_distances, tree_scan

pytestmark = pytest.mark.gpu

CASES = cases()
COMPILED = [name for name in CASES if "," not in name or name.endswith("random")]


def on_gpu(name):
    case = CASES[name]
    return case.function("cuda", "auto"), [x.cuda() for x in case.arguments]


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_all_modes_are_those_of_the_definition(name):
    case = CASES[name]
    assert_same_derivatives(case.function("cuda", "auto"), case.definition, case.arguments, "cuda")


@pytest.mark.parametrize("name", CASES)
def test_gradcheck_in_both_modes_and_to_the_second_order(name):
    function, arguments = on_gpu(name)
    arguments = [x.requires_grad_(i == 0 or not name.startswith("straight")) for i, x in enumerate(arguments)]
    assert gradcheck(function, arguments, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(function, arguments, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("name", [name for name in CASES if "one vertex" not in name])
def test_vmap_is_a_loop_over_the_samples(name):
    function, arguments = on_gpu(name)
    for in_dims in CASES[name].in_dims:
        assert_vmap_is_a_loop(function, arguments, in_dims)


@pytest.mark.parametrize("name", COMPILED)
def test_derivatives_compile(name):
    assert_compiles(*on_gpu(name))


def products(scan, args):
    """Return the tangent, and the product of the Hessian with the same direction."""
    along = tuple(waves(x, i) for i, x in enumerate(args))
    gradient = func.grad(lambda *args: scan(*args).square().mean(), tuple(range(len(args))))
    return func.jvp(scan, args, along)[1], *func.jvp(gradient, args, along)[1]


# Whole walks, and trees that are cut into pieces. Folded into a batch, the samples' trees are cut in another way.
@pytest.mark.parametrize("shape", [(9, 7, 9), (2, 40, 40), (1, 100, 90)], ids=str)
@pytest.mark.parametrize("direction", ["both", "up"])
def test_large_trees_equal_the_cpu(direction, shape):
    tree = grid_tree(*shape)
    args = tuple(x.detach() for x in inputs(tree, 5))
    expected = products(partial(tree_scan, tree=tree, direction=direction), args)
    there = partial(tree_scan, tree=to_cuda(tree), direction=direction)
    for i, (a, e) in enumerate(zip(products(there, tuple(x.cuda() for x in args)), expected, strict=True)):
        assert_close(a, e, str(i), tolerance=1e-10)


@pytest.mark.parametrize("shape", [(9, 7, 9), (2, 40, 40), (1, 100, 90)], ids=str)
def test_the_fused_scan_of_large_trees_equals_the_cpu(shape):
    tree = grid_tree(*shape)
    args = tuple(x.detach().double() for x in selective_arguments(tree, 5))
    expected = products(partial(selective_tree_scan, tree=tree), args)
    there = partial(selective_tree_scan, tree=to_cuda(tree))
    for i, (a, e) in enumerate(zip(products(there, tuple(x.cuda() for x in args)), expected, strict=True)):
        assert_close(a, e, str(i), tolerance=1e-10)


@pytest.mark.parametrize("shape", [(7, 9), (40, 40)], ids=str)
def test_vmap_over_trees_and_their_growth_is_a_loop(shape):
    height, width = shape
    x = torch.randn(6, 2, height, width, 4, dtype=torch.float64).cuda()

    def gradients(x):
        tree = minimum_spanning_tree(grid_distances(x), height, width)

        def loss(x):
            u = x.flatten(1, 2)
            return tree_scan(u, u.sigmoid(), tree).sin().sum()

        return func.grad(loss)(x), tree.parent

    mapped = func.vmap(gradients)(x)
    for i in range(6):
        gradient, parent = gradients(x[i])
        assert torch.equal(mapped[1][i], parent)
        assert_close(mapped[0][i], gradient, tolerance=1e-11)
    _, tangent = func.jvp(grid_distances, (x[0],), (x[0],))
    assert not tangent.any()


def test_derivatives_have_the_same_bits_in_every_run():
    tree = to_cuda(Tree(*(x.expand(2, -1) for x in grid_tree(1, 30, 30))))
    args = tuple(x.detach().float().cuda() for x in inputs(tree, 33))

    def scan(u, weight):
        return tree_scan(u, weight, tree)

    torch.use_deterministic_algorithms(False)  # as in a run that has not asked for them
    expected = products(scan, args)
    for _ in range(5):
        assert all(map(torch.equal, products(scan, args), expected))


def test_orders_and_distances_of_tokens_under_vmap():
    choice = torch.randint(4, (3, 2)).cuda()
    mapped = func.vmap(lambda c: quadtree_order(c, 5, 6, 2, (1, 0)))(choice)
    assert torch.equal(mapped, torch.stack([quadtree_order(c, 5, 6, 2, (1, 0)) for c in choice]))
    x, delta = torch.randn(2, 3, 2, 7, 4, dtype=torch.float64).cuda()
    bias, B = torch.randn(3, 4, dtype=torch.float64).cuda(), torch.randn(3, 2, 7, 2, dtype=torch.float64).cuda()
    start, end = torch.randint(0, 3, (3, 2)).cuda(), torch.randint(3, 8, (3, 2)).cuda()
    for of_bias in (0, None):
        args = (x, delta, bias if of_bias == 0 else bias[0], B, start, end)
        in_dims = (0, 0, of_bias, 0, 0, 0)
        mapped = func.vmap(token_distances, in_dims)(*args)
        for i in range(3):
            sample = (a if dim is None else a[i] for a, dim in zip(args, in_dims, strict=True))
            assert_close(mapped[i], token_distances(*sample))
