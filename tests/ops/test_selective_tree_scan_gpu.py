"""Compares the fused selective tree scan on the GPU with its definition, with every gradient."""

from functools import partial

import pytest
import torch
from oracles.gradients import with_gradients
from oracles.trees import SELECTIVE_NAMES as NAMES
from oracles.trees import TREES, grid_tree, large_trees, stack, to_cuda
from oracles.trees import selective_arguments as arguments
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import Tree, selective_tree_scan

pytestmark = pytest.mark.gpu


def scan_and_gradients(values, tree, g, backend="auto"):
    return with_gradients(partial(selective_tree_scan, tree=tree, backend=backend), values, g)


def assert_equals_definition(tree, channels, dtype):
    values = arguments(tree, channels, dtype)
    g = torch.randn(values[0].shape, dtype=torch.float64).to(dtype)
    expected = scan_and_gradients([v.double() for v in values], tree, g.double())
    actual = scan_and_gradients([v.cuda() for v in values], to_cuda(tree), g.cuda(), "cuda")
    for name, a, e, v in zip(NAMES, actual, expected, values[:1] + values, strict=True):
        assert a.dtype == v.dtype
        assert_close(a, e, name)


@pytest.mark.parametrize("channels", [1, 3, 32, 37, 160])
@pytest.mark.parametrize("name", TREES)
def test_equals_definition_with_every_gradient(name, channels):
    assert_equals_definition(TREES[name], channels, torch.float64)


@pytest.mark.parametrize(
    "shape", [(2, 1, 300, 8), (3, 56, 56, 160), (40, 7, 7, 1280), (64, 40, 40, 20), (1, 200, 304, 36)], ids=str
)
def test_equals_definition_on_grids(shape):
    batch, height, width, channels = shape
    tree = grid_tree(batch, height, width)
    assert_equals_definition(tree, channels, torch.float64)
    assert_equals_definition(tree, channels, torch.float32)


@pytest.mark.parametrize("parents", large_trees().values(), ids=large_trees())
def test_pieces_of_large_trees_equal_definition(parents):
    assert_equals_definition(stack(parents), 33, torch.float64)


@pytest.mark.parametrize("channels", [5, 64, 160])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_as_good_as_the_composition(dtype, channels):
    for tree in (TREES["random"], grid_tree(2, 20, 20), grid_tree(1, 56, 56)):
        values = arguments(tree, channels, dtype)
        g = torch.randn(values[0].shape).to(dtype)
        exact = scan_and_gradients([v.double() for v in values], tree, g.double())
        same = scan_and_gradients(values, tree, g, "reference")
        actual = scan_and_gradients([v.cuda() for v in values], to_cuda(tree), g.cuda(), "cuda")
        for name, a, s, e in zip(NAMES, actual, same, exact, strict=True):
            assert a.dtype == s.dtype
            # The sum is in float32, but its terms were rounded to the half type between the passes.
            limit = s.to(dtype) if s.dtype == torch.float32 else s
            assert_as_good_as(a.to(limit.dtype), limit, e, name)


def test_strided_inputs_and_gradcheck():
    tree = to_cuda(TREES["random"])
    values = [v.cuda() for v in arguments(tree, 4)]
    g = torch.randn(values[0].shape, dtype=torch.float64).cuda()
    expected = scan_and_gradients(values, tree, g)
    x, delta, A, B, bias = values
    spread = torch.zeros(*x.shape[:2], 11, dtype=torch.float64).cuda()
    spread[..., 3:7], spread[..., 10] = x, B
    strided = [spread[..., 3:7], delta.mT.contiguous().mT, A, spread[..., 10], bias]
    for name, a, e in zip(NAMES, scan_and_gradients(strided, tree, g.mT.contiguous().mT), expected, strict=True):
        assert_close(a, e, name)
    one = Tree(tree.parent[:1], tree.order[:1])
    small = [v.detach().requires_grad_() for v in (x[:1], delta[:1], A, B[:1], bias)]
    assert gradcheck(lambda *v: selective_tree_scan(*v, one), small, fast_mode=True)


@pytest.mark.parametrize("shape", [(4, 14, 14), (4, 56, 56)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bitwise_repetition_and_graph_replay(dtype, shape):
    tree = to_cuda(grid_tree(*shape))
    values = [v.cuda() for v in arguments(tree, 96, dtype)]
    g = torch.randn(values[0].shape).to(dtype).cuda()
    expected = scan_and_gradients(values, tree, g)
    for _ in range(5):
        assert all(map(torch.equal, scan_and_gradients(values, tree, g), expected))
    statics, parent = [torch.zeros_like(v) for v in values], torch.zeros_like(tree.parent)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = scan_and_gradients(statics, Tree(parent, tree.order), g)
    for static, value in zip((*statics, parent), (*values, tree.parent), strict=True):
        static.copy_(value)
    graph.replay()
    assert all(map(torch.equal, replayed, expected))


def test_opcheck_compile_autocast_and_empty_sizes():
    tree = to_cuda(grid_tree(2, 9, 7))
    values = [v.cuda().requires_grad_() for v in arguments(tree, 6, torch.float32)]
    opcheck(torch.ops.tree_ssm.selective_tree_scan, (*values, torch.ops.tree_ssm.tree_schedule(tree.parent)))

    def loss(*values):
        return selective_tree_scan(values[0] * 2, *values[1:], tree).square().sum()

    expected = torch.autograd.grad(loss(*values), values)
    for a, e in zip(torch.autograd.grad(torch.compile(loss, fullgraph=True)(*values), values), expected, strict=True):
        assert_close(a, e)
    half = [v if v.dim() == 1 else v.bfloat16() for v in values]
    with torch.autocast("cuda", torch.bfloat16):
        assert selective_tree_scan(*half, tree).dtype == torch.bfloat16
    x, delta, A, B, bias = values
    none = Tree(tree.parent[:0], tree.order[:0])
    for empty, of in (
        ((x[:0], delta[:0], A, B[:0], bias), none),
        ((x[..., :0], delta[..., :0], A[:0], B, bias[:0]), tree),
    ):
        h = selective_tree_scan(*empty, of)
        assert h.shape == empty[0].shape
        assert all(grad.eq(0).all() for grad in torch.autograd.grad(h.sum(), empty, materialize_grads=True))
