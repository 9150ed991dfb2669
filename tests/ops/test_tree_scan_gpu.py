"""The tree scan on the GPU: against the CPU kernel with every gradient, in all dtypes, shapes, streams and graphs."""

import pytest
import torch
from oracles.trees import large_tree, large_trees
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import Tree, minimum_spanning_tree, tree_scan

pytestmark = pytest.mark.gpu

DIRECTIONS = ["both", "up"]


def breadth_first(parent):
    children = [[] for _ in parent]
    for v, p in enumerate(parent):
        if v != p:
            children[p].append(v)
    order = [next(v for v, p in enumerate(parent) if v == p)]
    for v in order:
        order += children[v]
    return order


def stack(parents):
    return Tree(torch.tensor(parents), torch.tensor([breadth_first(p) for p in parents]))


def random_parents(length, seed):
    generator = torch.Generator().manual_seed(seed)
    names = torch.randperm(length, generator=generator).tolist()
    parent = [0] * length
    for place in range(length):
        above = int(torch.randint(place, (), generator=generator)) if place else 0
        parent[names[place]] = names[above]
    return parent


def grid_tree(batch, height, width):
    weight = torch.rand(batch, (height - 1) * width + height * (width - 1))
    return minimum_spanning_tree(weight, height, width, root=height * width // 3)


def to_cuda(tree):
    return Tree(*(x.cuda() for x in tree))


TREES = {
    "one vertex": stack([[0], [0]]),
    "two vertices": stack([[0, 0], [1, 1]]),
    "chains": stack([[0, 0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 6]]),
    "long chain": stack([[max(v - 1, 0) for v in range(333)]]),
    "star": stack([[3] * 77]),
    "caterpillar": stack([[max(v - 1, 0) if v < 40 else v % 40 for v in range(200)]]),
    "random": stack([random_parents(50, seed) for seed in range(4)]),
    "grid": grid_tree(3, 17, 13),
}


def scan_and_gradients(u, weight, tree, direction, g, backend="auto"):
    u, weight = u.detach().requires_grad_(), weight.detach().requires_grad_()
    h = tree_scan(u, weight, tree, direction, backend)
    return (h.detach(), *torch.autograd.grad(h, (u, weight), g, materialize_grads=True))


def inputs(tree, channels, dtype, weight_dtype=None):
    shape = (*tree.parent.shape, channels)
    u, g = torch.randn(2, *shape, dtype=torch.float64).to(dtype)
    return u, torch.rand(shape, dtype=torch.float64).mul(1.4).sub(0.3).to(weight_dtype or dtype), g


def assert_equals_cpu(tree, channels, dtype, direction, weight_dtype=None):
    u, weight, g = inputs(tree, channels, dtype, weight_dtype)
    expected = scan_and_gradients(u, weight, tree, direction, g, "cpu")
    actual = scan_and_gradients(u.cuda(), weight.cuda(), to_cuda(tree), direction, g.cuda(), "cuda")
    for name, a, e in zip(("h", "grad_u", "grad_weight"), actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert_close(a, e, name)


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
        assert_equals_cpu(large_tree(parents), channels, dtype, direction)


def test_pieces_equal_whole_walks():
    tree = grid_tree(1, 32, 32)  # so many at once are not cut
    many = Tree(*(x.expand(40, -1) for x in tree))
    for direction in DIRECTIONS:
        u, weight, g = inputs(tree, 32, torch.float64)
        pieces = scan_and_gradients(u.cuda(), weight.cuda(), to_cuda(tree), direction, g.cuda())
        args = (x.expand(40, -1, -1).cuda() for x in (u, weight))
        whole = scan_and_gradients(*args, to_cuda(many), direction, g.expand(40, -1, -1).cuda())
        for a, e in zip(whole, pieces, strict=True):
            assert_close(a, e.expand_as(a))


@pytest.mark.parametrize("channels", [5, 64])
@pytest.mark.parametrize("wide_weight", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_half_types_are_as_good_as_the_reference(direction, dtype, wide_weight, channels):
    for tree in (TREES["random"], grid_tree(2, 20, 20), grid_tree(1, 56, 56)):
        u, weight, g = inputs(tree, channels, dtype, torch.float32 if wide_weight else None)
        weight = weight.abs().clamp_max(0.99)
        exact = scan_and_gradients(u.double(), weight.double(), tree, direction, g.double(), "reference")
        same = scan_and_gradients(u, weight, tree, direction, g, "reference")
        actual = scan_and_gradients(u.cuda(), weight.cuda(), to_cuda(tree), direction, g.cuda(), "cuda")
        for name, a, s, e in zip(("h", "grad_u", "grad_weight"), actual, same, exact, strict=True):
            assert a.dtype == s.dtype
            assert_as_good_as(a, s, e, name)


def test_any_order_with_parents_first_and_strided_inputs():
    tree = TREES["random"]
    depth_first = []
    for parent in tree.parent.tolist():
        stack_, order = [breadth_first(parent)[0]], []
        while stack_:
            v = stack_.pop()
            order.append(v)
            stack_ += [c for c, p in enumerate(parent) if p == v and c != v]
        depth_first.append(order)
    other = Tree(tree.parent, torch.tensor(depth_first))
    u, weight, g = inputs(tree, 16, torch.float64)
    expected = scan_and_gradients(u, weight, tree, "both", g)
    wide = torch.randn(4, 50, 40, dtype=torch.float64).cuda()
    wide[..., 3:19] = u.cuda()
    swapped = weight.cuda().transpose(1, 2).contiguous().transpose(1, 2)
    actual = scan_and_gradients(wide[..., 3:19], swapped, to_cuda(other), "both", g.cuda())
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)
    one = torch.ones((), dtype=torch.float64)
    actual = scan_and_gradients(u.cuda(), weight.cuda(), to_cuda(tree), "both", one.cuda().expand_as(g))
    for a, e in zip(actual, scan_and_gradients(u, weight, tree, "both", one.expand_as(g)), strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradcheck(direction):
    for name in ("caterpillar", "random"):
        tree = TREES[name]
        u, weight, _ = inputs(tree, 2, torch.float64)
        u, weight = u[:1].cuda().requires_grad_(), weight[:1].cuda().requires_grad_()
        one = Tree(tree.parent[:1].cuda(), tree.order[:1].cuda())
        assert gradcheck(lambda a, b, t=one: tree_scan(a, b, t, direction), (u, weight), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(4, 56, 56, 64), (1, 128, 128, 32)], ids=str)
def test_bitwise_repetition_stream_and_graph_replay(shape, dtype):
    batch, height, width, channels = shape
    tree = to_cuda(grid_tree(batch, height, width))
    u, weight, g = (x.cuda() for x in inputs(tree, channels, dtype))
    expected = scan_and_gradients(u, weight, tree, "both", g)
    for _ in range(5):
        for a, e in zip(scan_and_gradients(u, weight, tree, "both", g), expected, strict=True):
            assert torch.equal(a, e)
    schedule = torch.ops.tree_ssm.tree_schedule(tree.parent)
    for _ in range(5):
        assert torch.equal(torch.ops.tree_ssm.tree_schedule(tree.parent), schedule)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = scan_and_gradients(u.clone(), weight.clone(), tree, "both", g.clone())
    torch.cuda.current_stream().wait_stream(stream)
    for a, e in zip(results, expected, strict=True):
        assert torch.equal(a, e)
    statics = [torch.zeros_like(x) for x in (u, weight, g)]
    parent, order = torch.zeros_like(tree.parent), tree.order.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = scan_and_gradients(*statics[:2], Tree(parent, order), "both", statics[2])
    for static, x in zip((*statics, parent), (u, weight, g, tree.parent), strict=True):
        static.copy_(x)
    graph.replay()
    for a, e in zip(replayed, expected, strict=True):
        assert torch.equal(a, e)


def test_opcheck_and_compile():
    tree = to_cuda(TREES["grid"])
    u, weight, _ = (x.cuda().requires_grad_() for x in inputs(tree, 8, torch.float32))
    schedule = torch.ops.tree_ssm.tree_schedule(tree.parent)
    for batch, length in ((3, 221), (1, 5000), (32, 1500), (40, 1500)):  # whole and cut
        parent = torch.zeros(batch, length, dtype=torch.int64, device="cuda")
        opcheck(torch.ops.tree_ssm.tree_schedule.default, (parent,))
    for last in ((), (schedule,)):
        opcheck(torch.ops.tree_ssm.tree_scan.default, (u, weight, *tree, True, *last))

    def step(a, b, parent, order):
        h = tree_scan(a, b, Tree(parent, order))
        return h, *torch.autograd.grad(h.square().sum(), (a, b))

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


def test_autocast_and_empty_sizes():
    tree = to_cuda(TREES["two vertices"])
    u, weight, _ = (x.cuda() for x in inputs(tree, 4, torch.float32))
    with torch.autocast("cuda", dtype=torch.float16):
        assert tree_scan(u, weight, tree).dtype == torch.float32
        assert tree_scan(u.half(), weight, tree).dtype == torch.float16
    assert tree_scan(u[:0], weight[:0], Tree(tree.parent[:0], tree.order[:0])).shape == (0, 2, 4)
    assert tree_scan(u[..., :0], weight[..., :0], tree).shape == (2, 2, 0)
