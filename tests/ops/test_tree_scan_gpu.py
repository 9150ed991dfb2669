"""Compares the tree scan on the GPU with the CPU kernel: every gradient, all dtypes, shapes, streams and graphs."""

import pytest
import torch
from oracles.trees import LONGER_TREES as TREES
from oracles.trees import depth_first, grid_tree, inputs, large_trees, scan_and_gradients, stack, to_cuda
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import Tree, tree_scan

pytestmark = pytest.mark.gpu

DIRECTIONS = ["both", "up"]


def assert_equals_cpu(tree, channels, dtype, direction, weight_dtype=None):
    u, weight = inputs(tree, channels, dtype, weight_dtype)
    expected = scan_and_gradients(u, weight, tree, direction, "cpu")
    for name, value in scan_and_gradients(u.cuda(), weight.cuda(), to_cuda(tree), direction, "cuda").items():
        assert value.dtype == expected[name].dtype
        assert_close(value, expected[name], name)


@pytest.mark.parametrize("channels", [1, 3, 32, 37, 160])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", TREES)
def test_equals_cpu_with_every_gradient(name, direction, channels):
    assert_equals_cpu(TREES[name], channels, torch.float64, direction)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 4), (2, 1, 300, 8), (3, 56, 56, 160), (40, 7, 7, 1280), (2, 128, 128, 20), (1, 200, 304, 36)],
    ids=str,
)
def test_equals_cpu_on_grids(shape, direction):
    batch, height, width, channels = shape
    tree = grid_tree(batch, height, width)
    assert_equals_cpu(tree, channels, torch.float64, direction)
    assert_equals_cpu(tree, channels, torch.float32, direction)


@pytest.mark.parametrize("channels", [3, 64])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("parents", large_trees().values(), ids=large_trees())
def test_pieces_of_large_trees_equal_cpu(parents, direction, channels):
    for dtype in (torch.float64, torch.float32):
        assert_equals_cpu(stack(parents), channels, dtype, direction)


def test_pieces_equal_whole_walks():
    tree = grid_tree(1, 32, 32)  # the kernel cuts a single tree into pieces, but not 40 trees at once
    many = Tree(*(x.expand(40, -1) for x in tree))
    for direction in DIRECTIONS:
        u, weight, g = torch.rand(3, 1, 1024, 32, dtype=torch.float64).cuda()
        pieces = scan_and_gradients(u, weight, to_cuda(tree), direction, "cuda", g)
        args = (x.expand(40, -1, -1) for x in (u, weight))
        whole = scan_and_gradients(*args, to_cuda(many), direction, "cuda", g.expand(40, -1, -1))
        for name, value in whole.items():
            assert_close(value, pieces[name].expand_as(value), name)


@pytest.mark.parametrize("channels", [5, 64])
@pytest.mark.parametrize("wide_weight", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_half_types_are_as_good_as_the_reference(direction, dtype, wide_weight, channels):
    for tree in (TREES["random"], grid_tree(2, 20, 20), grid_tree(1, 56, 56)):
        u, weight = inputs(tree, channels, dtype, torch.float32 if wide_weight else None)
        weight, g = weight.abs().clamp_max(0.99), torch.randn(u.shape).to(dtype)
        exact = scan_and_gradients(u.double(), weight.double(), tree, direction, "reference", g.double())
        same = scan_and_gradients(u, weight, tree, direction, "reference", g)
        on_gpu = (u.cuda(), weight.cuda(), to_cuda(tree), direction, "cuda", g.cuda())
        for name, value in scan_and_gradients(*on_gpu).items():
            assert value.dtype == same[name].dtype
            assert_as_good_as(value, same[name], exact[name], name)


def test_any_order_with_parents_first_and_strided_inputs():
    tree = TREES["random"]
    other = to_cuda(stack(tree.parent.tolist(), depth_first))
    u, weight = inputs(tree, 16, grad=False)
    expected = scan_and_gradients(u, weight, tree, "both", "cpu")
    wide = torch.randn(4, 50, 40, dtype=torch.float64).cuda()
    wide[..., 3:19] = u.cuda()
    swapped = weight.cuda().transpose(1, 2).contiguous().transpose(1, 2)
    for name, value in scan_and_gradients(wide[..., 3:19], swapped, other, "both", "cuda").items():
        assert_close(value, expected[name], name)
    g = torch.ones((), dtype=torch.float64).expand_as(u)
    expected = scan_and_gradients(u, weight, tree, "both", "cpu", g)
    g = torch.ones((), dtype=torch.float64, device="cuda").expand_as(u)
    for name, value in scan_and_gradients(u.cuda(), weight.cuda(), to_cuda(tree), "both", "cuda", g).items():
        assert_close(value, expected[name], name)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradcheck(direction):
    for name in ("caterpillar", "random"):
        tree = TREES[name]
        u, weight = inputs(tree, 2, grad=False)
        u, weight = u[:1].cuda().requires_grad_(), weight[:1].cuda().requires_grad_()
        one = Tree(tree.parent[:1].cuda(), tree.order[:1].cuda())
        assert gradcheck(lambda a, b, t=one: tree_scan(a, b, t, direction), (u, weight), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(4, 56, 56, 64), (1, 128, 128, 32)], ids=str)
def test_bitwise_repetition_stream_and_graph_replay(shape, dtype):
    batch, height, width, channels = shape
    tree = to_cuda(grid_tree(batch, height, width))
    u, weight = (x.cuda() for x in inputs(tree, channels, dtype, grad=False))
    g = torch.randn(u.shape).to(u)

    def run(u, weight, tree, g):
        return list(scan_and_gradients(u, weight, tree, "both", "cuda", g).values())

    expected = run(u, weight, tree, g)
    for _ in range(5):
        assert all(map(torch.equal, run(u, weight, tree, g), expected))
    schedule = torch.ops.tree_ssm.tree_schedule(tree.parent)
    for _ in range(5):
        assert torch.equal(torch.ops.tree_ssm.tree_schedule(tree.parent), schedule)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = run(u.clone(), weight.clone(), tree, g.clone())
    torch.cuda.current_stream().wait_stream(stream)
    assert all(map(torch.equal, results, expected))
    statics = [torch.zeros_like(x) for x in (u, weight, g)]
    parent, order = torch.zeros_like(tree.parent), tree.order.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = run(*statics[:2], Tree(parent, order), statics[2])
    for static, x in zip((*statics, parent), (u, weight, g, tree.parent), strict=True):
        static.copy_(x)
    graph.replay()
    assert all(map(torch.equal, replayed, expected))


def test_opcheck_and_compile():
    tree = to_cuda(TREES["grid"])
    u, weight = (x.cuda().requires_grad_() for x in inputs(tree, 8, torch.float32, grad=False))
    schedule = torch.ops.tree_ssm.tree_schedule(tree.parent)
    for batch, length in ((3, 221), (1, 5000), (32, 1500), (40, 1500)):  # some trees are cut
        parent = torch.zeros(batch, length, dtype=torch.int64, device="cuda")
        opcheck(torch.ops.tree_ssm.tree_schedule.default, (parent,))
    for last in ((), (schedule,)):
        opcheck(torch.ops.tree_ssm.tree_scan.default, (u, weight, *tree, True, *last))

    def forward(a, b, parent, order):
        return tree_scan(a * 2, b, Tree(parent, order)).square().sum()

    compiled = torch.compile(forward, fullgraph=True)
    expected = torch.autograd.grad(forward(u, weight, *tree), (u, weight))
    for a, e in zip(torch.autograd.grad(compiled(u, weight, *tree), (u, weight)), expected, strict=True):
        assert_close(a, e)


def test_what_is_no_tree_ends_and_stays_inside():
    parent = torch.tensor([[1, 2, 0, 3], [0, 1, 2, 3], [7, -5, 0, 0]]).cuda()  # a cycle, a forest, no vertices
    order = torch.arange(4).expand(3, -1).cuda()
    u, weight = torch.randn(2, 3, 4, 8).cuda().requires_grad_(True).unbind(0)
    tree_scan(u, weight, Tree(parent, order)).sum().backward()
    order = torch.arange(2000)
    cycles = [(order + 1) % 2000, (order + 1) % 1000 + order // 1000 * 1000]
    forests = [order, (order - 1).clamp_min(0).where(order != 1000, order), order // 1001 * 1001]
    parent = torch.stack([*cycles, *forests, torch.randint(-9, 4000, (2000,)), torch.randint(2000, (2000,))]).cuda()
    u, weight = torch.randn(2, 7, 2000, 8).cuda().requires_grad_(True).unbind(0)
    tree_scan(u, weight, Tree(parent, order.cuda().expand(7, -1))).sum().backward()
    torch.cuda.synchronize()
    assert_equals_cpu(TREES["random"], 8, torch.float64, "both")


def test_pieces_are_smaller_than_their_trees():
    # 257 trees of 131,072 vertices would have pieces of as many.
    batch, length = 257, 2**17
    order = torch.arange(length, device="cuda")
    tree = Tree((order - 1).clamp_min(0).expand(batch, -1), order.expand(batch, -1))
    u, weight = torch.rand(2, 1, length, 1, device="cuda")
    h = tree_scan(u.expand(batch, -1, -1), weight.expand(batch, -1, -1), tree)
    alone = tree_scan(u, weight, Tree(*(index[:1] for index in tree)))
    assert torch.equal(h, h[:1].expand_as(h))
    assert_close(h[:1], alone)


def test_autocast_and_empty_sizes():
    tree = to_cuda(TREES["two vertices"])
    u, weight = (x.cuda() for x in inputs(tree, 4, torch.float32, grad=False))
    with torch.autocast("cuda", dtype=torch.float16):
        assert tree_scan(u, weight, tree).dtype == torch.float32
        assert tree_scan(u.half(), weight, tree).dtype == torch.float16
    assert tree_scan(u[:0], weight[:0], Tree(tree.parent[:0], tree.order[:0])).shape == (0, 2, 4)
    assert tree_scan(u[..., :0], weight[..., :0], tree).shape == (2, 2, 0)
