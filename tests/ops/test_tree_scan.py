"""Tests of the tree scan: brute force, reference, CPU kernel, every gradient, low precision, determinism."""

import itertools

import pytest
import torch
from oracles.trees import (
    TREES,
    brute_force,
    depth_first,
    grid_tree,
    inputs,
    random_parents,
    scan_and_gradients,
    stack,
)
from torch.autograd import gradcheck

from ssm_core.ops import selective_scan
from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import Tree, minimum_spanning_tree, tree_scan

BACKENDS = ["reference", "cpu"]
DIRECTIONS = ["both", "up"]
HALVES = [torch.bfloat16, torch.float16]


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
    u, weight = inputs(tree, 96)  # the backward pass needs twice 23,000 × 96 doubles of scratch
    expected = scan_and_gradients(u, weight, tree, "both", "reference")
    for name, value in scan_and_gradients(u, weight, tree, "both", "cpu").items():
        assert_close(value, expected[name], name)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradcheck_of_the_kernel(direction):
    tree = grid_tree(2, 3, 4)
    u, weight = inputs(tree, 3)
    assert gradcheck(lambda u, weight: tree_scan(u, weight, tree, direction, "cpu"), (u, weight))


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
    # The root is 0, so the edge between t - 1 and t carries weight_t. The backward recurrence crosses that edge at
    # step t - 1, so its weights are shifted by one.
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
    # The root is the last token, and the edge from t up to t + 1 carries the decay of t + 1.
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
    """The sum over paths does not depend on the root, as long as every edge keeps its weight."""
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
    weight = edge_weight[torch.arange(12), first.parent[0]].unsqueeze(0)
    results.append(tree_scan(u, weight, stack([parent], depth_first), backend=backend))
    for h in results[1:]:
        assert_close(h, results[0])


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
