"""The GPU grows exactly the CPU kernel's spanning trees for all weights, on every stream and in every run."""

import pytest
import torch
from oracles.grid import num_edges
from oracles.spanning_trees import edge_weights as weights
from torch.library import opcheck

from tree_ssm.ops import grid_edges, minimum_spanning_tree

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NAN, INF = float("nan"), float("inf")


def assert_same_tree(actual, expected):
    assert actual.parent.is_cuda
    assert actual.parent.dtype == actual.order.dtype == torch.int64
    assert torch.equal(actual.parent.cpu(), expected.parent)
    assert torch.equal(actual.order.cpu(), expected.order)


def random_graph(length, extra, generator):
    """Return the edges ``[E, 2]`` of a connected graph with loops and repetitions, in random order and orientation."""
    names = torch.randperm(length, generator=generator)
    places = torch.arange(1, length)
    above = (torch.rand(length - 1, generator=generator) * places).long()
    edges = torch.cat(
        [torch.stack([names[places], names[above]], 1), torch.randint(length, (extra, 2), generator=generator)]
    )
    return edges[torch.randperm(len(edges), generator=generator)]


@pytest.mark.parametrize("kind", ["ties", "distinct", "rising"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_cpu_on_thousands_of_grids(dtype, kind):
    shapes = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 40), (40, 1), (3, 5), (7, 7), (12, 5), (14, 14), (31, 33)]
    for height, width in shapes:
        batch = 128 if height * width < 200 else 16
        weight = weights(batch, num_edges(height, width), kind, dtype)
        root = torch.randint(height * width, (batch,))
        expected = minimum_spanning_tree(weight, height, width, root=root, backend="cpu")
        actual = minimum_spanning_tree(weight.cuda(), height, width, root=root.cuda(), backend="cuda")
        assert_same_tree(actual, expected)


@pytest.mark.parametrize("kind", ["ties", "distinct", "rising"])
@pytest.mark.parametrize("shape", [(64, 56, 56), (4, 95, 97), (3, 1, 9000), (2, 200, 304), (1, 512, 512)], ids=str)
def test_equals_cpu_on_large_grids(shape, kind):
    batch, height, width = shape
    weight = weights(batch, num_edges(height, width), kind)
    root = torch.randint(height * width, (batch,))
    expected = minimum_spanning_tree(weight, height, width, root=root, backend="cpu")
    assert_same_tree(minimum_spanning_tree(weight.cuda(), height, width, root=root.cuda()), expected)
    single = minimum_spanning_tree(weight[:1].double().cuda(), height, width, root=root[:1].cuda())
    assert torch.equal(single.order[0].cpu(), expected.order[0])


# Grids of just 1,024, 2,048, 4,096 and 8,192 edges, which 1, 2, 4 and 8 edges a thread cover, and of a few more; the
# largest grids that a block holds in its shared memory, and larger ones.
BORDERS = [
    [(1, 1025), (1, 1026), (23, 24), (1026, 1)],
    [(1, 2049), (33, 32), (33, 33), (2050, 1)],
    [(1, 4097), (45, 46), (46, 46), (4098, 1)],
    [(1, 8193), (64, 64), (64, 65), (8194, 1)],
    [(91, 92), (92, 92), (1, 9990), (9990, 1), (1, 10241), (102, 102)],
]


@pytest.mark.parametrize("kind", ["ties", "distinct", "rising"])
@pytest.mark.parametrize("shapes", BORDERS, ids=["1", "2", "4", "8", "more"])
def test_numbers_of_edges_at_which_kernels_change(shapes, kind):
    for height, width in shapes:
        weight = weights(6, num_edges(height, width), kind)
        root = torch.randint(height * width, (6,))
        root[:2] = torch.tensor([0, height * width - 1])
        expected = minimum_spanning_tree(weight, height, width, root=root, backend="cpu")
        assert_same_tree(minimum_spanning_tree(weight.cuda(), height, width, root=root.cuda()), expected)


@pytest.mark.parametrize("kind", ["ties", "distinct", "rising"])
@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (1, 33), (33, 1), (7, 7), (14, 14), (30, 35)], ids=str)
def test_every_root(shape, kind):
    height, width = shape
    weight = weights(1, num_edges(height, width), kind).expand(height * width, -1).contiguous()
    root = torch.arange(height * width)
    expected = minimum_spanning_tree(weight, height, width, root=root, backend="cpu")
    assert_same_tree(minimum_spanning_tree(weight.cuda(), height, width, root=root.cuda()), expected)


def test_trees_that_are_one_path():
    height, width = 56, 56
    down, across = torch.ones(height - 1, width), torch.zeros(height, width - 1)
    down[::2, -1] = down[1::2, 0] = 0  # rows joined at alternating ends
    weight = torch.cat([down.flatten(), across.flatten()]).expand(3, -1).contiguous()
    root = torch.tensor([0, 1700, height * width - 1])
    expected = minimum_spanning_tree(weight, height, width, root=root, backend="cpu")
    assert_same_tree(minimum_spanning_tree(weight.cuda(), height, width, root=root.cuda()), expected)


@pytest.mark.parametrize("kind", ["ties", "distinct"])
@pytest.mark.parametrize("length", [1, 2, 3, 20, 500, 20000])
def test_listed_edges_equal_cpu(length, kind):
    generator = torch.Generator().manual_seed(3)
    batch = 4 if length > 1000 else 32
    shared = random_graph(length, 30 + length, generator)
    own = torch.stack([random_graph(length, 30 + length, generator) for _ in range(batch)])
    for dtype in DTYPES:
        root = torch.randint(length, (batch,))
        for edges in (shared, own):
            weight = weights(batch, edges.shape[-2], kind, dtype)
            arguments = dict(edges=edges, num_vertices=length, root=root)
            expected = minimum_spanning_tree(weight, **arguments, backend="cpu")
            arguments = dict(edges=edges.cuda(), num_vertices=length, root=root.cuda())
            assert_same_tree(minimum_spanning_tree(weight.cuda(), **arguments), expected)


def test_star_and_listed_grid():
    star = torch.stack([torch.full((4999,), 2500), torch.arange(5000)[torch.arange(5000) != 2500]], 1)
    weight = torch.randn(2, 4999)
    expected = minimum_spanning_tree(weight, edges=star, num_vertices=5000, root=7)
    assert_same_tree(minimum_spanning_tree(weight.cuda(), edges=star.cuda(), num_vertices=5000, root=7), expected)
    weight = weights(3, num_edges(40, 30), "ties")
    listed = minimum_spanning_tree(weight.cuda(), edges=grid_edges(40, 30, "cuda"), num_vertices=1200)
    assert_same_tree(listed, minimum_spanning_tree(weight, 40, 30))


@pytest.mark.parametrize("shape", [(8, 9), (120, 130)], ids=str)
def test_non_finite_weights_neither_hang_nor_break_the_tree(shape):
    height, width = shape
    count = num_edges(height, width)
    for bad in (NAN, INF, -INF):
        weight = torch.randn(4, count)
        weight[1, ::3] = bad
        weight[2] = bad
        weight[3, count // 2] = bad
        # The definition orders edges by (weight, index) and puts NaN after infinity.
        both = torch.stack([weight.isnan().float(), torch.nan_to_num(weight, 0.0, INF, -INF)])
        order = torch.stack(
            [torch.tensor(sorted(range(count), key=lambda e, b=b: tuple(both[:, b, e].tolist()))) for b in range(4)]
        )
        place = torch.empty_like(order).scatter_(1, order, torch.arange(count).expand(4, -1))
        expected = minimum_spanning_tree(place.float(), height, width)
        assert_same_tree(minimum_spanning_tree(weight.cuda(), height, width), expected)
        fault = torch.ops.tree_ssm.spanning_tree(weight.cuda(), None, height, width, torch.zeros(4).long().cuda())[2]
        assert fault.tolist() == [[0, 0], [3, 0], [3, 0], [3, count // 2]]


def test_faults_are_reported_and_leave_a_tree():
    edges = torch.tensor(
        [[[0, 1], [1, 2], [2, 3]], [[0, 1], [1, 9], [2, 3]], [[0, 1], [0, 1], [2, 3]], [[0, 1], [1, 2], [2, 3]]]
    )
    root = torch.tensor([1, 1, 1, 4])
    out = torch.ops.tree_ssm.spanning_tree(torch.rand(4, 3).cuda(), edges.cuda(), 4, 1, root.cuda())
    parent, order, fault = (x.tolist() for x in out)
    assert fault == [[0, 0], [2, 1], [4, -1], [1, 4]]
    assert parent == [[1, 1, 1, 2], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 2]]
    assert order == [[1, 0, 2, 3], [1, 0, 2, 3], [1, 0, 2, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize("shape", [(8, 14, 14), (2, 200, 304)], ids=str)
def test_graph_replay_stream_and_repetition(shape):
    batch, height, width = shape
    weight = weights(batch, num_edges(height, width), "distinct").cuda()
    expected = minimum_spanning_tree(weight, height, width)
    for _ in range(5):
        assert torch.equal(minimum_spanning_tree(weight, height, width).order, expected.order)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert torch.equal(minimum_spanning_tree(weight.clone(), height, width).parent, expected.parent)
    torch.cuda.current_stream().wait_stream(stream)
    for dtype in (torch.float32, torch.float64):
        static = torch.zeros_like(weight, dtype=dtype)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            tree = minimum_spanning_tree(static, height, width, root=3)
        other = weights(batch, num_edges(height, width), "ties", dtype)
        static.copy_(other)
        graph.replay()
        assert_same_tree(tree, minimum_spanning_tree(other, height, width, root=3))


def test_never_waits_for_the_device():
    weight = weights(4, num_edges(14, 14), "distinct").cuda()
    edges = grid_edges(14, 14, "cuda")
    root = torch.zeros(4, dtype=torch.int64, device="cuda")
    expected = minimum_spanning_tree(weight, 14, 14, root=root)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trees = [
            minimum_spanning_tree(weight, 14, 14, root=root),
            minimum_spanning_tree(weight.double(), 14, 14, root=root),
            minimum_spanning_tree(weight, edges=edges, num_vertices=196, root=root),
        ]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(tree.order, expected.order) for tree in trees)


def test_opcheck_and_compile():
    weight = weights(2, num_edges(5, 6), "ties").cuda()
    root = torch.zeros(2, dtype=torch.int64, device="cuda")
    opcheck(torch.ops.tree_ssm.spanning_tree.default, (weight, None, 5, 6, root))
    opcheck(torch.ops.tree_ssm.minimum_spanning_tree.default, (weight, grid_edges(5, 6, "cuda"), 30, 1, root))
    compiled = torch.compile(lambda w: tuple(minimum_spanning_tree(w, 5, 6)), fullgraph=True)
    for actual, expected in zip(compiled(weight), minimum_spanning_tree(weight, 5, 6), strict=True):
        assert torch.equal(actual, expected)


def test_empty_batch():
    assert minimum_spanning_tree(torch.empty(0, num_edges(3, 3)).cuda(), 3, 3).parent.shape == (0, 9)
