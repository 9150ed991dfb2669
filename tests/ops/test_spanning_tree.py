"""Tests of the minimum spanning tree: oracle, reference, CPU kernel, torch.compile, errors."""

import pytest
import torch
from oracles.spanning_trees import edge_weights, hang, kruskal
from scipy.sparse import coo_matrix, csgraph
from torch.library import opcheck

from ssm_core.errors import NonFiniteError
from tree_ssm.ops import Tree, grid_edges, minimum_spanning_tree

BACKENDS = ["reference", "cpu"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
GRIDS = [(1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (2, 2), (3, 5), (7, 7), (12, 5)]
NAN, INF = float("nan"), float("inf")


def assert_equals_oracle(tree, weight, edges, root):
    length = tree.parent.shape[1]
    for b in range(len(weight)):
        own = edges[b] if edges.dim() == 3 else edges
        parent, order = hang(kruskal(weight[b].tolist(), own.tolist(), length), length, int(root[b]))
        assert tree.parent[b].tolist() == parent
        assert tree.order[b].tolist() == order


def random_graph(length, extra, generator):
    """Return the edges ``[E, 2]`` of a connected graph without repetitions, in random order and orientation."""
    names = torch.randperm(length, generator=generator).tolist()
    pairs = {frozenset((names[v], names[int(torch.randint(v, (), generator=generator))])) for v in range(1, length)}
    for a, b in torch.randint(length, (extra, 2), generator=generator).tolist():
        if a != b:
            pairs.add(frozenset((a, b)))
    edges = torch.tensor([list(pair) for pair in pairs], dtype=torch.int64).view(-1, 2)
    return edges[torch.randperm(len(edges), generator=generator)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["ties", "distinct"])
def test_total_weight_equals_scipys_on_thousands_of_graphs(kind, backend):
    generator = torch.Generator().manual_seed(1)
    graphs = 0
    shapes = [(length, extra) for length in (2, 3, 5, 8, 13, 24) for extra in (0, 3, 20, 100)]
    for shape in shapes + GRIDS[1:]:
        if shape in GRIDS:
            edges, length = grid_edges(*shape), shape[0] * shape[1]
        else:
            edges, length = random_graph(*shape, generator), shape[0]
        weight = edge_weights(64, len(edges), kind, torch.float64, generator)
        tree = minimum_spanning_tree(weight, edges=edges, num_vertices=length, backend=backend)
        for b in range(64):
            # SciPy reads a zero as a missing edge, so all weights are shifted. The shift adds the same to every tree.
            shifted = (weight[b] - weight[b].min() + 1).numpy()
            dense = torch.full((length, length), INF, dtype=torch.float64)
            dense[edges[:, 0], edges[:, 1]] = dense[edges[:, 1], edges[:, 0]] = torch.from_numpy(shifted)
            ours = dense[torch.arange(length), tree.parent[b]]
            ours = ours[tree.parent[b] != torch.arange(length)].sum()
            theirs = csgraph.minimum_spanning_tree(
                coo_matrix((shifted, edges.numpy().T), shape=(length, length)).tocsr()
            ).sum()
            assert abs(float(ours) - theirs) <= 1e-12 * max(theirs, 1.0)
            graphs += 1
    assert graphs > 2000


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["ties", "distinct"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_grid_tree_equals_oracle(grid, kind, backend):
    generator = torch.Generator().manual_seed(2)
    edges, length = grid_edges(*grid), grid[0] * grid[1]
    for dtype in DTYPES:
        weight = edge_weights(6, len(edges), kind, dtype, generator)
        root = torch.randint(length, (6,), generator=generator)
        tree = minimum_spanning_tree(weight, *grid, root=root, backend=backend)
        assert tree.parent.dtype == tree.order.dtype == torch.int64
        assert_equals_oracle(tree, weight, edges, root)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["ties", "distinct"])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 20])
def test_listed_edges_with_loops_and_repetitions_equal_oracle(length, kind, backend):
    generator = torch.Generator().manual_seed(3)
    for dtype in DTYPES:
        per_sample = []
        for _ in range(8):
            edges = random_graph(length, 0, generator)
            more = torch.randint(length, (10, 2), generator=generator)  # some are loops or repetitions
            edges = torch.cat([edges, more, edges.flip(1)])
            per_sample.append(edges[torch.randperm(len(edges), generator=generator)])
        root = torch.randint(length, (8,), generator=generator)
        for edges in (per_sample[0], torch.stack(per_sample)):
            weight = edge_weights(8, edges.shape[-2], kind, dtype, generator)
            tree = minimum_spanning_tree(weight, edges=edges, num_vertices=length, root=root, backend=backend)
            assert_equals_oracle(tree, weight, edges, root)


@pytest.mark.parametrize("grid", [(56, 56), (1, 1000), (30, 101)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernel_equals_reference_on_large_grids(grid, dtype):
    features = torch.nn.functional.avg_pool2d(torch.randn(3, 4, *grid), 3, 1, 1).flatten(2).transpose(1, 2)
    edges = grid_edges(*grid)
    a, b = features[:, edges[:, 0]], features[:, edges[:, 1]]
    weight = torch.exp(-torch.cosine_similarity(a, b, dim=-1)).to(dtype)
    for root in (0, grid[0] * grid[1] // 2):
        expected = minimum_spanning_tree(weight, *grid, root=root, backend="reference")
        listed = minimum_spanning_tree(weight, edges=edges, num_vertices=grid[0] * grid[1], root=root, backend="cpu")
        for tree in (minimum_spanning_tree(weight, *grid, root=root, backend="cpu"), listed):
            assert torch.equal(tree.parent, expected.parent)
            assert torch.equal(tree.order, expected.order)


@pytest.mark.parametrize("backend", BACKENDS)
def test_known_shapes(backend):
    line = torch.arange(9)
    for grid in ((1, 9), (9, 1)):
        chain = minimum_spanning_tree(torch.rand(2, 8), *grid, backend=backend)
        assert torch.equal(chain.parent, (line - 1).clamp_min(0).expand(2, -1))
        assert torch.equal(chain.order, line.expand(2, -1))
    spokes = torch.stack([torch.full((8,), 4), line[line != 4]], dim=-1)
    star = minimum_spanning_tree(torch.rand(2, 8), edges=spokes, num_vertices=9, root=4, backend=backend)
    assert torch.equal(star.parent, torch.full((2, 9), 4))
    assert star.order[0].tolist() == [4, 0, 1, 2, 3, 5, 6, 7, 8]
    for graph in ({"height": 1, "width": 1}, {"edges": torch.zeros(0, 2, dtype=torch.int64), "num_vertices": 1}):
        single = minimum_spanning_tree(torch.rand(3, 0), **graph, backend=backend)
        assert torch.equal(single.parent, torch.zeros(3, 1, dtype=torch.int64))
    assert minimum_spanning_tree(torch.rand(0, 12), 3, 3, backend=backend).order.shape == (0, 9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_negative_zero_ties_with_zero(dtype, backend):
    # The four edges of the square are equal, so the tree leaves out the edge with the highest index.
    weight = torch.tensor([[0.0, -0.0, 0.0, -0.0], [-0.0, 0.0, -0.0, 0.0]], dtype=dtype)
    tree = minimum_spanning_tree(weight, 2, 2, backend=backend)
    assert tree.parent.tolist() == [[0, 0, 0, 1]] * 2


def test_grid_edges_in_documented_order():
    assert grid_edges(2, 3).tolist() == [[0, 3], [1, 4], [2, 5], [0, 1], [1, 2], [3, 4], [4, 5]]
    assert grid_edges(1, 1).shape == (0, 2)


def test_same_trees_whatever_the_threads_and_strides():
    weight = torch.rand(2 * 7 * 6, 9).t()
    trees = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        trees.append(minimum_spanning_tree(weight, 7, 7, backend="cpu"))
    torch.set_num_threads(before)
    trees.append(minimum_spanning_tree(weight.contiguous(), 7, 7, backend="cpu"))
    assert all(torch.equal(a, b) for tree in trees[1:] for a, b in zip(tree, trees[0], strict=True))


def test_no_gradient_passes():
    weight = torch.rand(2, 4, requires_grad=True)
    tree = minimum_spanning_tree(weight * 2, 2, 2)
    assert isinstance(tree, Tree)
    assert not tree.parent.requires_grad


LISTED = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 1]])


@pytest.mark.parametrize("op", ["spanning_tree", "minimum_spanning_tree"])
@pytest.mark.parametrize(
    "graph", [(None, 3, 3), (LISTED, 3, 1), (LISTED.expand(2, -1, -1), 3, 1)], ids=["grid", "list", "lists"]
)
def test_opcheck(op, graph):
    num_edges = 12 if graph[0] is None else 4
    opcheck(getattr(torch.ops.tree_ssm, op), (torch.rand(2, num_edges), *graph, torch.tensor([0, 2])))


def test_compiles_without_a_break_and_still_raises():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def grow(weight):
        tree = minimum_spanning_tree(weight.square(), 3, 4, root=5)
        listed = minimum_spanning_tree(weight[:, :4], edges=LISTED, num_vertices=3, root=weight.new_zeros(2).long())
        return Tree(tree.parent, tree.order + 0), listed

    weight = torch.randn(2, 17)
    tree, listed = grow(weight)
    assert torch.equal(tree.order, minimum_spanning_tree(weight.square(), 3, 4, root=5).order)
    assert torch.equal(listed.parent, minimum_spanning_tree(weight[:, :4], edges=LISTED, num_vertices=3).parent)
    weight[1, 9] = NAN
    with pytest.raises(NonFiniteError, match="in sample 1 the weight of edge 9 is NaN or infinite"):
        grow(weight)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_non_finite_weight_names_sample_and_edge(dtype, bad, backend):
    weight = torch.rand(4, 12).to(dtype)
    weight[2, 7] = weight[2, 11] = weight[3, 0] = bad
    with pytest.raises(NonFiniteError, match="in sample 2 the weight of edge 7 is NaN or infinite"):
        minimum_spanning_tree(weight, 3, 3, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_about_values(backend):
    def span(edges, num_vertices, root=0):
        edges = torch.tensor(edges).view(-1, 2)
        return minimum_spanning_tree(
            torch.rand(2, len(edges)), edges=edges, num_vertices=num_vertices, root=root, backend=backend
        )

    with pytest.raises(ValueError, match="in sample 0 the graph is not connected"):
        span([[0, 1], [2, 3], [0, 1]], 4)
    with pytest.raises(ValueError, match="in sample 0 the graph is not connected"):
        span([[0, 0], [1, 1]], 2)
    for outside in (4, -1):
        with pytest.raises(ValueError, match="in sample 0 edge 1 has an end that is no vertex"):
            span([[0, 1], [outside, 3], [2, 3]], 4)
        with pytest.raises(ValueError, match=f"in sample 1 the root is {outside}, which is no vertex"):
            span([[0, 1], [1, 2], [2, 3]], 4, root=torch.tensor([3, outside]))
        with pytest.raises(ValueError, match=f"root must be a vertex, 0 … 3, got {outside}"):
            span([[0, 1], [1, 2], [2, 3]], 4, root=outside)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either height and width, or edges and num_vertices"),
        ({"height": 2}, "give either height and width"),
        ({"height": 2, "width": 2, "num_vertices": 4}, "give either height and width"),
        ({"edges": LISTED}, "give either height and width"),
        ({"edges": LISTED, "num_vertices": 3, "height": 3, "width": 1}, "give either height and width"),
        ({"height": 0, "width": 3}, "at least 1×1, got 0×3"),
        ({"height": 2, "width": 3}, r"\[B, E\] with E = 7, got \(2, 4\)"),
        ({"edges": LISTED, "num_vertices": 0}, "num_vertices must be at least 1, got 0"),
        ({"edges": LISTED.int(), "num_vertices": 3}, "edges must be int64"),
        ({"edges": LISTED.expand(3, -1, -1), "num_vertices": 3}, r"edges must be int64 \[E, 2\] or \[B, E, 2\]"),
        ({"edges": LISTED[:3], "num_vertices": 3}, r"E = 3, got \(2, 4\)"),
        ({"height": 2, "width": 2, "root": torch.tensor([0])}, r"root must be an int or int64 \[B\], B = 2"),
        ({"height": 2, "width": 2, "root": torch.tensor([0, 1]).int()}, "root must be an int or int64"),
        ({"height": 2, "width": 2, "root": torch.zeros(2, dtype=torch.int64, device="meta")}, "root is on meta"),
        ({"height": 2, "width": 2, "backend": "gpu"}, "backend must be one of"),
    ],
)
def test_errors_about_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        minimum_spanning_tree(torch.rand(2, 4), **arguments)


def test_errors_about_the_weights():
    with pytest.raises(ValueError, match=r"edge_weight must be \[B, E\] with E = 4, got \(4,\)"):
        minimum_spanning_tree(torch.rand(4), 2, 2)
    with pytest.raises(ValueError, match=r"edge_weight must be floating point, got torch.int64"):
        minimum_spanning_tree(torch.zeros(2, 4, dtype=torch.int64), 2, 2)
