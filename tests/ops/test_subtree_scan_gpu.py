"""Compares the subtree scan on the GPU with its definition, with every gradient."""

from functools import partial

import pytest
import torch
from oracles.gradients import with_gradients
from oracles.sequences import NAMES, chain, sequence_tree
from oracles.sequences import scan_arguments as arguments
from oracles.trees import TREES, grid_tree, to_cuda
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import Tree, subtree_scan

pytestmark = pytest.mark.gpu
RULES = pytest.mark.parametrize("next_step", [False, True], ids=["own", "next"])


def scan_of(tree, next_step, backend="auto"):
    return partial(subtree_scan, tree=tree, next_step=next_step, backend=backend)


def upstream(values):
    """Return upstream gradients for both results."""
    x, A = values[0], values[2]
    return [torch.randn(x.shape, dtype=torch.float64).to(x.dtype), torch.randn(len(x), *A.shape).to(A.dtype)]


def on_gpu(values):
    return [None if v is None else v.cuda() for v in values]


def assert_equals_definition(tree, next_step, channels, states, dtype):
    values = arguments(tree, channels, states, dtype)
    g = upstream(values)
    exact = scan_of(tree, next_step, "cpu")
    expected = with_gradients(exact, [v.double() for v in values], [v.double() for v in g])
    actual = with_gradients(scan_of(to_cuda(tree), next_step, "cuda"), on_gpu(values), on_gpu(g))
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        assert_close(a, e, f"{name}, {channels} channels of {states} states")


@RULES
@pytest.mark.parametrize("name", TREES)
def test_equals_definition_with_every_gradient(name, next_step):
    for channels, states in ((1, 1), (3, 16), (32, 4), (37, 5), (64, 20)):
        assert_equals_definition(TREES[name], next_step, channels, states, torch.float64)


@RULES
@pytest.mark.parametrize("shape", [(1, 7), (3, 64), (2, 515), (1, 2048), (1, 5000)], ids=str)
def test_equals_definition_on_sequences(shape, next_step):
    tree = sequence_tree(*shape)
    assert_equals_definition(tree, next_step, 40, 16, torch.float64)
    assert_equals_definition(tree, next_step, 40, 16, torch.float32)


def test_equals_definition_on_bushy_trees_and_chains():
    # A fork in a grid's tree waits for many chunks. No tree has more waiting forks than a complete binary tree.
    for tree in (grid_tree(2, 23, 31), chain(2, 130), binary_tree(511), binary_tree(1000)):
        assert_equals_definition(tree, True, 33, 16, torch.float64)


def binary_tree(length):
    vertex = torch.arange(length)
    return Tree(((vertex - 1) // 2).clamp_min(0)[None], vertex[None])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_as_good_as_the_composition(dtype):
    for tree, channels in ((TREES["random"], 5), (sequence_tree(2, 500), 64), (sequence_tree(2, 100), 23)):
        values = arguments(tree, channels, 16, dtype)
        g = upstream(values)
        exact = with_gradients(scan_of(tree, True), [v.double() for v in values], [v.double() for v in g])
        same = with_gradients(scan_of(tree, True, "reference"), values, g)
        actual = with_gradients(scan_of(to_cuda(tree), True, "cuda"), on_gpu(values), on_gpu(g))
        for name, a, s, e in zip(NAMES, actual, same, exact, strict=True):
            assert a.dtype == s.dtype
            # The result is in float32, but the steps before it are only as precise as the half type.
            limit = s.to(dtype) if s.dtype == torch.float32 else s
            assert_as_good_as(a.to(limit.dtype), limit, e, name)


def test_strided_inputs_missing_gradients_and_gradcheck():
    tree = to_cuda(TREES["random"])
    values = on_gpu(arguments(tree, 4, 3))
    g = on_gpu(upstream(values))
    scan = scan_of(tree, True)
    expected = with_gradients(scan, values, g)
    x, delta, A, B, C, bias = values
    spread = torch.cat([B, x, C], dim=-1).detach()
    strided = [spread[..., 3:7], delta.mT.contiguous().mT, A, spread[..., :3], spread[..., 7:], bias]
    actual = with_gradients(scan, strided, [g[0].mT.contiguous().mT, g[1]])
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        assert_close(a, e, name)
    parts = [with_gradients(scan, values, kept) for kept in ([g[0], None], [None, g[1]])]
    for name, a, b, e in zip(NAMES[2:], *(p[2:] for p in parts), expected[2:], strict=True):
        assert_close(a + b, e, name)
    assert gradcheck(scan, [v.detach().requires_grad_() for v in values], fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bitwise_repetition_and_graph_replay(dtype):
    tree = to_cuda(sequence_tree(4, 700))
    values = on_gpu(arguments(tree, 96, 16, dtype))
    g = on_gpu(upstream(values))
    expected = with_gradients(scan_of(tree, True), values, g)
    for _ in range(5):
        assert all(map(torch.equal, with_gradients(scan_of(tree, True), values, g), expected))
    statics, parent = [torch.zeros_like(v) for v in values], torch.zeros_like(tree.parent)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = with_gradients(scan_of(Tree(parent, tree.order), True), statics, g)
    for static, value in zip((*statics, parent), (*values, tree.parent), strict=True):
        static.data.copy_(value)
    graph.replay()
    assert all(map(torch.equal, replayed, expected))


def test_opcheck_compile_autocast_and_empty_sizes():
    tree = to_cuda(sequence_tree(2, 50))
    values = [v.detach().requires_grad_() for v in on_gpu(arguments(tree, 6, 4, torch.float32))]
    schedule = torch.ops.tree_ssm.tree_schedule(tree.parent)
    opcheck(torch.ops.tree_ssm.selective_subtree_scan, (*values, *tree, True, schedule))
    g = on_gpu(upstream(values))
    scan = scan_of(tree, True)
    compiled = torch.compile(scan, fullgraph=True)
    for a, e in zip(*(with_gradients(s, values, g) for s in (compiled, scan)), strict=True):
        assert_close(a, e)
    with torch.autocast("cuda", torch.bfloat16):
        assert scan(*values)[0].dtype == torch.float32
    x, delta, A, B, C, bias = values
    none = Tree(tree.parent[:0], tree.order[:0])
    for empty, of in (
        ((x[:0], delta[:0], A, B[:0], C[:0], bias), none),
        ((x[..., :0], delta[..., :0], A[:0], B, C, bias[:0]), tree),
    ):
        y, state = subtree_scan(*empty, of)
        assert y.shape == empty[0].shape
        assert state.shape == (len(empty[0]), *empty[2].shape)
        gradients = torch.autograd.grad(y.sum() + state.sum(), empty, materialize_grads=True)
        assert all(grad.eq(0).all() for grad in gradients)


def test_what_is_no_tree_leads_nowhere_else():
    # The GPU raises no error for a cycle. The result means nothing, but the scans after it are right.
    parent = torch.tensor([[1, 2, 0, 3]], device="cuda")
    values = on_gpu(arguments(Tree(parent, parent), 3, 4))
    found = with_gradients(scan_of(Tree(parent, parent), True), values, on_gpu(upstream(values)))
    torch.cuda.synchronize()
    assert [x.shape for x in found[2:]] == [v.shape for v in values]
    assert_equals_definition(TREES["random"], True, 3, 4, torch.float64)
