"""The test ladder of the tree scan: brute force, reference, CPU kernel, low precision, torch.compile, errors."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from ssm_core.ops import selective_scan
from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import Tree, minimum_spanning_tree, tree_scan

BACKENDS = ["reference", "cpu"]
DIRECTIONS = ["both", "up"]
HALVES = [torch.bfloat16, torch.float16]


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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", TREES)
def test_equals_dense_sum_with_every_gradient(name, direction, backend):
    tree = TREES[name]
    u, weight = inputs(tree, 3)
    expected = brute_force(u, weight, tree, direction)
    g = torch.randn_like(u)
    grad_u, grad_weight = torch.autograd.grad(expected, (u, weight), g, materialize_grads=True)
    actual = scan_and_gradients(u, weight, tree, direction, backend, g)
    assert_close(actual["h"], expected, "h")
    assert_close(actual["grad_u"], grad_u, "grad_u")
    assert_close(actual["grad_weight"], grad_weight, "grad_weight")


@pytest.mark.parametrize("channels", [1, 3, 17, 160])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 30), (2, 13, 9), (5, 7, 7)], ids=str)
def test_kernel_equals_reference(shape, direction, channels):
    tree = grid_tree(*shape)
    u, weight = inputs(tree, channels)
    expected = scan_and_gradients(u, weight, tree, direction, "reference")
    for name, value in scan_and_gradients(u, weight, tree, direction, "cpu").items():
        assert_close(value, expected[name], name)
    single = scan_and_gradients(u.float(), weight.float(), tree, direction, "cpu")
    for name, value in single.items():
        assert_close(value, expected[name], name)


def test_kernel_equals_reference_where_the_channels_are_cut_to_fit_the_cache():
    vertices = torch.arange(23_000).unsqueeze(0)
    tree = Tree((torch.rand(vertices.shape) * vertices).long(), vertices)
    u, weight = inputs(tree, 96)  # twice 23,000 × 96 doubles of scratch in the backward pass
    expected = scan_and_gradients(u, weight, tree, "both", "reference")
    for name, value in scan_and_gradients(u, weight, tree, "both", "cpu").items():
        assert_close(value, expected[name], name)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradcheck_of_the_kernel(direction):
    tree = grid_tree(2, 3, 4)
    u, weight = inputs(tree, 3)
    assert gradcheck(lambda u, weight: tree_scan(u, weight, tree, direction, "cpu"), (u, weight))


def test_second_derivative_is_the_references_alone():
    tree = TREES["random"]
    u, weight = inputs(tree, 1)
    assert gradgradcheck(lambda u, weight: tree_scan(u, weight, tree, "both", "reference"), (u, weight))
    (grad_u,) = torch.autograd.grad(tree_scan(u, weight, tree, backend="cpu").sum(), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative; call it with backend='reference'"):
        grad_u.sum().backward()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("dtype", "weight_dtype"), [(a, b) for a in HALVES for b in (a, torch.float32)], ids=str)
def test_low_precision_is_as_good_as_the_reference(dtype, weight_dtype, direction):
    tree = grid_tree(3, 13, 9)
    u, weight = inputs(tree, 17, dtype, weight_dtype)
    exact = scan_and_gradients(u.double(), weight.double(), tree, direction, "reference")
    same = scan_and_gradients(u, weight, tree, direction, "reference")
    for name, value in scan_and_gradients(u, weight, tree, direction, "cpu").items():
        assert value.dtype == (weight_dtype if name == "grad_weight" else dtype)
        assert_as_good_as(value, same[name], exact[name], name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_chain_it_is_two_selective_scans(backend):
    batch, length, channels = 2, 33, 5
    line = torch.arange(length).expand(batch, -1)
    u, delta = torch.randn(2, batch, channels, length, dtype=torch.float64)
    delta = delta.exp()
    A = -torch.rand(channels, 1, dtype=torch.float64)
    weight = torch.exp(delta * A)
    ones = torch.ones(batch, 1, length, dtype=torch.float64)

    def recurrence(weight, source, reverse):  # s_t = weight_t s_{t-1} + source_t
        step = weight.log() / A
        return selective_scan(source / step, step, A, ones, ones, reverse=reverse)

    def tokens_first(x):
        return x.transpose(1, 2).contiguous()

    source = delta * u
    # The edge between t - 1 and t carries weight_t below root 0: the scan from the far end meets it one step later.
    toward_root = torch.cat([weight[..., 1:], torch.ones_like(weight[..., :1]) * 0.5], dim=-1)
    forward = recurrence(weight, source, reverse=False)
    backward = recurrence(toward_root, source, reverse=True)
    tree = Tree((line - 1).clamp_min(0), line)
    both = tree_scan(tokens_first(source), tokens_first(weight), tree, "both", backend)
    assert_close(both, tokens_first(forward + backward - source), tolerance=1e-11)
    up = tree_scan(tokens_first(source), tokens_first(weight), tree, "up", backend)
    assert_close(up, tokens_first(backward), tolerance=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_up_on_a_chain_is_mambas_recurrence(backend):
    # Root at the last token; the edge from t up to t + 1 carries the decay of t + 1.
    length = 20
    decay, source = torch.rand(2, 1, length, 4, dtype=torch.float64)
    line = torch.arange(length).unsqueeze(0)
    tree = Tree((line + 1).clamp_max(length - 1), line.flip(1))
    h = tree_scan(source, decay.roll(-1, dims=1), tree, "up", backend)
    state = torch.zeros(1, 4, dtype=torch.float64)
    for t in range(length):
        state = decay[:, t] * state + source[:, t]
        assert_close(h[:, t], state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_operator_is_symmetric(backend):
    tree = grid_tree(2, 8, 9)
    (x, weight), (y, _) = inputs(tree, 4, grad=False), inputs(tree, 4, grad=False)
    left = (x * tree_scan(y, weight, tree, backend=backend)).sum()
    right = (tree_scan(x, weight, tree, backend=backend) * y).sum()
    assert_close(left, right, tolerance=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_root_and_any_order_give_the_same_sum(backend):
    """The sum over paths does not know the root, as long as every edge keeps its weight."""
    parent = random_parents(12, 7)
    first = stack([parent])
    edge_weight = torch.rand(12, 12, 3, dtype=torch.float64)
    edge_weight = edge_weight + edge_weight.transpose(0, 1)
    edges = torch.tensor([[v, p] for v, p in enumerate(parent) if v != p])
    u = torch.randn(1, 12, 3, dtype=torch.float64)
    results = []
    for root in range(12):
        tree = minimum_spanning_tree(torch.zeros(1, 11), edges=edges, num_vertices=12, root=root)
        weight = edge_weight[torch.arange(12), tree.parent[0]].unsqueeze(0)
        results.append(tree_scan(u, weight, tree, backend=backend))
    depth_first = Tree(first.parent, torch.tensor([sorted_depth_first(parent)]))
    weight = edge_weight[torch.arange(12), first.parent[0]].unsqueeze(0)
    results.append(tree_scan(u, weight, depth_first, backend=backend))
    for h in results[1:]:
        assert_close(h, results[0])


def sorted_depth_first(parent):
    root = next(v for v, p in enumerate(parent) if v == p)
    todo, order = [root], []
    while todo:
        order.append(todo.pop())
        todo += [c for c in range(len(parent)) if parent[c] == order[-1] and c != root]
    return order


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_roots_weight_is_ignored_and_gets_no_gradient(backend):
    tree = grid_tree(2, 4, 5)
    u, weight = inputs(tree, 3)
    root = tree.order[:, 0]
    expected = scan_and_gradients(u, weight, tree, "both", backend)
    poisoned = weight.detach().clone()
    poisoned[torch.arange(2), root] = float("nan")
    actual = scan_and_gradients(u, poisoned.requires_grad_(), tree, "both", backend)
    assert all(torch.equal(actual[name], expected[name]) for name in actual)
    assert not actual["grad_weight"][torch.arange(2), root].any()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_whatever_the_threads_and_the_channels_beside(dtype, direction):
    tree = grid_tree(3, 17, 16)
    u, weight = inputs(tree, 145, dtype, torch.float32)
    runs, before = [], torch.get_num_threads()
    for threads in (1, 2, 1, 2):
        torch.set_num_threads(threads)
        runs.append(scan_and_gradients(u, weight, tree, direction, "cpu", torch.ones_like(u)))
    for run, name in itertools.product(runs[1:], runs[0]):
        assert torch.equal(run[name], runs[0][name])
    for channels in (slice(3, 4), slice(7, 145)):
        part = [x[..., channels].detach().requires_grad_() for x in (u, weight)]
        run = scan_and_gradients(*part, tree, direction, "cpu", torch.ones_like(part[0]))
        for name in run:
            assert torch.equal(run[name], runs[0][name][..., channels]), name
    torch.set_num_threads(before)


def test_strides_do_not_matter():
    tree = grid_tree(2, 4, 6)
    u, weight = inputs(tree, 6)
    expected = scan_and_gradients(u, weight, tree, "both", "cpu", torch.ones_like(u))

    def views(x):
        wide = torch.full((*x.shape[:2], 9), float("nan"), dtype=x.dtype)
        wide[..., 1:7] = x.detach()
        yield wide[..., 1:7]
        yield x.detach().transpose(1, 2).contiguous().transpose(1, 2)
        yield x.detach().transpose(0, 1).contiguous().transpose(0, 1)

    columns = Tree(*(x.t().contiguous().t() for x in tree))
    for a, b in zip(views(u), reversed(list(views(weight))), strict=True):
        g = u.new_ones(()).expand_as(u)
        actual = scan_and_gradients(a.requires_grad_(), b.requires_grad_(), columns, "both", "cpu", g)
        assert all(torch.equal(actual[name], expected[name]) for name in actual)


@pytest.mark.parametrize("shape", [(0, 9, 4), (2, 9, 0)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_do(shape, backend):
    tree = Tree(*(x.expand(shape[0], -1) for x in grid_tree(1, 3, 3)))
    u = torch.ones(shape, requires_grad=True)
    h = tree_scan(u, torch.ones(shape), tree, backend=backend)
    h.sum().backward()
    assert h.shape == u.grad.shape == shape


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("dtypes", [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)], ids=str)
def test_opcheck(dtypes, both):
    tree = grid_tree(2, 3, 3)
    u, weight = inputs(tree, 4, *dtypes)
    opcheck(torch.ops.tree_ssm.tree_scan, (u, weight, *tree, both))
    strided = u.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    opcheck(torch.ops.tree_ssm.tree_scan, (strided, weight, *tree, both))
    opcheck(
        torch.ops.tree_ssm.tree_scan_backward,
        (torch.randn_like(u), u.detach(), weight.detach(), *tree, both),
    )


def test_compiles_without_a_break_from_features_to_gradients():
    def model(u, weight, edge_weight):
        tree = minimum_spanning_tree(edge_weight, 4, 5)
        return tree_scan(u * 2, weight.sigmoid(), tree).square() + tree_scan(u, weight.sigmoid(), tree, "up")

    edge_weight = torch.rand(2, 31)
    u, weight = inputs(grid_tree(2, 4, 5), 6, torch.float32)
    expected = model(u, weight, edge_weight)
    gradients = torch.autograd.grad(expected.sum(), (u, weight))
    actual = torch.compile(model, fullgraph=True, backend="aot_eager")(u, weight, edge_weight)
    assert_close(actual, expected)
    for value, name in zip(torch.autograd.grad(actual.sum(), (u, weight)), ("grad_u", "grad_weight"), strict=True):
        assert_close(value, gradients[("grad_u", "grad_weight").index(name)], name)


def test_autocast_leaves_the_precision_of_the_inputs():
    tree = grid_tree(2, 5, 5)
    u, weight = inputs(tree, 4, torch.bfloat16, torch.float32)
    expected = scan_and_gradients(u, weight, tree, "both", "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        h = tree_scan(u, weight, tree)
        wide = tree_scan(u.float(), weight, tree)
    assert torch.equal(h, expected["h"])
    assert wide.dtype == torch.float32


@pytest.mark.parametrize(("direction", "forward", "backward"), [("both", 6, 15), ("up", 2, 5)])
def test_flops(direction, forward, backward):
    tree = grid_tree(2, 4, 5)
    u, weight = inputs(tree, 3)
    with FlopCounterMode(display=False) as counter:
        h = tree_scan(u, weight, tree, direction, "cpu")
    assert counter.get_total_flops() == forward * 2 * 19 * 3
    with FlopCounterMode(display=False) as counter:
        h.sum().backward()
    assert counter.get_total_flops() == backward * 2 * 19 * 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("parent", "order"),
    [
        ([0, 0, 1], [0, 2, 1]),
        ([0, 0, 1], [0, 1, 1]),
        ([0, 0, 1], [0, 1, 3]),
        ([0, 0, 1], [0, -1, 2]),
        ([0, 0, 3], [0, 1, 2]),
        ([0, 0, -1], [0, 1, 2]),
        ([1, 0, 1], [0, 1, 2]),
        ([0, 2, 1], [0, 1, 2]),
        ([0, 0, 2], [0, 1, 2]),
    ],
    ids=str,
)
def test_what_is_not_a_tree_is_refused(parent, order, backend):
    tree = Tree(torch.tensor([[0, 0, 1], parent]), torch.tensor([[0, 1, 2], order]))
    u, weight = inputs(tree, 2)
    with pytest.raises(ValueError, match="tree is not a tree in sample 1: its order must list every vertex once"):
        tree_scan(u, weight, tree, backend=backend)


def test_without_the_library_both_operators_run_with_one_warning_each():
    program = """
import warnings, torch
from ssm_core import _ext
_ext.load = lambda: False
from tree_ssm.ops import minimum_spanning_tree, tree_scan
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        tree = minimum_spanning_tree(torch.tensor([[2.0, 1.0, 1.0, 3.0]]), 2, 2)
        h = tree_scan(torch.ones(1, 4, 1), torch.full((1, 4, 1), 0.5), tree)
print(tree.parent.tolist(), h.flatten().tolist(), *(str(w.message) for w in caught), sep="\\n")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    parent, h, *warned = run.stdout.splitlines()
    assert parent == "[[0, 0, 0, 1]]"
    assert h == "[2.25, 2.25, 1.875, 1.875]"
    assert len(warned) == 2
    assert all("has no compiled kernel for cpu here" in w for w in warned)


GOOD = {"u": torch.ones(2, 9, 3), "weight": torch.ones(2, 9, 3), "tree": grid_tree(2, 3, 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.ones(2, 9)}, r"u must be \[B, L, D\] with L at least 1, got \(2, 9\)"),
        ({"u": torch.ones(2, 0, 3)}, r"u must be \[B, L, D\] with L at least 1, got \(2, 0, 3\)"),
        ({"u": torch.ones(2, 9, 3).int()}, "u must be a real floating-point tensor, got torch.int32"),
        ({"weight": torch.ones(2, 9, 1)}, r"weight must have u's shape \(2, 9, 3\), got \(2, 9, 1\)"),
        ({"weight": torch.ones(2, 9, 3).half()}, "weight must be torch.float32 beside an u of torch.float32"),
        (
            {"u": torch.ones(2, 9, 3).half(), "weight": torch.ones(2, 9, 3).bfloat16()},
            "weight must be torch.float16 or torch.float32 beside an u of torch.float16, got torch.bfloat16",
        ),
        ({"weight": torch.ones(2, 9, 3, device="meta")}, "weight is on meta but u is on cpu"),
        ({"tree": grid_tree(2, 3, 4)}, r"tree.parent must be int64 \[B, L\] = \(2, 9\), got torch.int64 \(2, 12\)"),
        ({"tree": GOOD["tree"]._replace(order=GOOD["tree"].order.int())}, "tree.order must be int64"),
        ({"direction": "down"}, "direction must be 'both' or 'up', got 'down'"),
        ({"backend": "gpu"}, "backend must be one of"),
    ],
)
def test_errors_about_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        tree_scan(**(GOOD | change))
