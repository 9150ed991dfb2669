"""Tests that no result on a GPU shows memory of another tensor, whatever the order, the tree or the schedule.

A GPU's kernels do not check an order or a tree, because that would mean waiting for the device. An order that is no
permutation leaves tokens out, and so does the schedule of what is no tree. Their results have to be zeros. Before each
call the free memory is filled with NaN, or with large numbers that are finite in every type.
"""

import copy
import itertools

import pytest
import torch

from ssm_core.ops import directional_scan, selective_scan
from tree_ssm.ops import Tree, selective_tree_scan, subtree_scan, tree_scan

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NAN, LARGE = (
    0xFF,
    0x7B,
)  # bytes: of NaN in all floating-point types, and of 61,280 in float16 and 1e36 or more in others


@pytest.fixture(autouse=True)
def memory_stays_as_it_was(poisoned_memory):
    # The shared fixture of the operators' tests fills new tensors. Here they have to show what was there before.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.cuda.empty_cache()


def poison(byte):
    """Leave free memory of all sizes in torch's cache, full of one byte."""
    sizes = [2**k for k in range(9, 26)] + [3 * 2**k for k in range(9, 23)]
    held = [torch.full((size,), byte, dtype=torch.uint8, device="cuda") for size in sizes for _ in range(4)]
    del held


def check(results):
    """Results have to be finite and small."""
    for number, result in enumerate(results):
        assert result.isfinite().all(), f"result {number} of {len(results)} is not finite"
        most = 6e4 if result.dtype == torch.float16 else 1e9
        assert result.abs().max() < most, f"result {number} of {len(results)} is large"


def gradients(function, inputs):
    """The output and the gradients of all inputs."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, torch.full_like(y, 0.01))


def rand(*shape, dtype=torch.float32):
    return torch.rand(shape, device="cuda", dtype=torch.float64).to(dtype)


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def permutations(*shape):
    return torch.rand(shape, device="cuda").argsort(-1)


def broken_orders(order):
    """Orders that are no permutations."""
    length = order.shape[-1]
    yield torch.zeros_like(order)
    yield order // 2
    for bad in (-1, length, 2**31, 2**32 + 1, 2**62, -(2**63)):
        out = order.clone()
        out[..., ::3] = bad
        yield out
    yield torch.full_like(order, -1)
    yield torch.randint(length, order.shape, device="cuda")
    if order.dim() == 3:
        for direction in (0, -1):  # one direction of one sample
            one = order.clone()
            one[0, direction, : length // 2] = length - 1
            yield one


def left_out(order, length):
    """Which tokens each order leaves out."""
    steps = torch.where((order >= 0) & (order < length), order, length)
    visited = torch.zeros(*order.shape[:-1], length + 1, dtype=torch.bool, device="cuda")
    return ~visited.scatter(-1, steps, True)[..., :length]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shared", [True, False], ids=["one order", "an order each"])
@pytest.mark.parametrize("directions", [1, 4, 6])
@pytest.mark.parametrize(
    ("length", "states"), [(1, 1), (1, 4), (150, 1), (300, 1), (300, 4), (300, 20), (5000, 1), (5000, 4)]
)
def test_tokens_that_no_step_visits_have_zeros(length, states, directions, shared, dtype):
    batch, channels = 2, 24
    # Small, since threads may add to one row in turns where an order has a token many times.
    x = 0.1 * rand(batch, length, channels, dtype=dtype)
    delta = rand(batch, directions, length, channels, dtype=dtype)
    A = -1 - rand(directions, channels, states, dtype=wide(dtype))
    B, C = (rand(batch, directions, length, states, dtype=dtype) for _ in range(2))
    D, bias = (rand(directions, channels, dtype=wide(dtype)) for _ in range(2))
    inputs = (x, delta, A, B, C, D, bias)
    right = permutations(length) if shared else permutations(batch, directions, length)
    reverse = [direction % 2 == 1 for direction in range(directions)]

    def run(order, byte):
        poison(byte)
        return gradients(lambda *leaves: directional_scan(*leaves, order=order, reverse=reverse), inputs)

    once = run(right, LARGE)
    check(once)
    for order in broken_orders(right):
        missing = left_out(order.expand(batch, directions, length), length)
        for byte in (NAN, LARGE):
            y, grad_x, grad_delta, _, grad_B, grad_C, *_ = results = run(order, byte)
            check(results)
            for result in (y, grad_x):
                assert result[missing.any(1)].eq(0).all()
            for result in (grad_delta, grad_B, grad_C):
                assert result[missing].eq(0).all()
    assert all(map(torch.equal, run(right, NAN), once))


@pytest.mark.parametrize("states", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_many_samples_whose_directions_are_scanned_one_after_another(dtype, states):
    batch, directions, length, channels = 96, 3, 70, 320
    x, delta = rand(batch, length, channels, dtype=dtype), rand(batch, directions, length, channels, dtype=dtype)
    A = -0.1 - rand(directions, channels, states)
    B, C = (rand(batch, directions, length, states, dtype=dtype) for _ in range(2))
    right = permutations(batch, directions, length)
    for order in broken_orders(right):
        missing = left_out(order, length)
        poison(NAN)
        y, grad_x, grad_delta, _, grad_B, grad_C = results = gradients(
            lambda *leaves, order=order: directional_scan(*leaves, order=order), (x, delta, A, B, C)
        )
        check(results)
        assert all(result[missing.any(1)].eq(0).all() for result in (y, grad_x))
        assert all(result[missing].eq(0).all() for result in (grad_delta, grad_B, grad_C))


@pytest.mark.parametrize("length", [49, 40000])  # the longer one has two windows
def test_channels_first_with_groups(length):
    batch, channels, groups, states = 2, 12, 3, 2
    u, delta = rand(batch, channels, length), rand(batch, channels, length)
    A, B, C = -0.1 - rand(channels, states), *rand(2, batch, groups, states, length)
    for order in broken_orders(permutations(batch, groups, length)):
        missing = left_out(order, length).repeat_interleave(channels // groups, dim=1)
        poison(NAN)
        y, grad_u, grad_delta, *others = gradients(
            lambda *leaves, order=order: selective_scan(*leaves, delta_softplus=True, order=order), (u, delta, A, B, C)
        )
        check([y, grad_u, grad_delta, *others])
        assert all(result[missing].eq(0).all() for result in (y, grad_u, grad_delta))


def chains(batch, length):
    """Parents of trees that are paths."""
    return (torch.arange(length) - 1).clamp_min(0).expand(batch, -1).contiguous().cuda()


def trees(batch, length):
    """Parents of random trees with the root 0."""
    parent = [[0, *(int(torch.randint(v, ())) for v in range(1, length))] for _ in range(batch)]
    return torch.tensor(parent).cuda()


def broken_parents(parent):
    """Parents of what is no tree."""
    length = parent.shape[1]
    vertices = torch.arange(length, device="cuda").expand_as(parent)
    yield vertices.contiguous()  # only roots
    yield (vertices + 1) % length  # a cycle
    yield torch.full_like(parent, length - 1)
    two_roots, loop, outside = parent.clone(), parent.clone(), parent.clone()
    two_roots[:, length // 2] = length // 2
    loop[:, length // 3] = length - 1
    outside[:, ::5] = length + 7
    outside[:, 1::7] = -3
    yield from (two_roots, loop, outside)
    yield torch.randint(length, parent.shape, device="cuda")
    one = parent.clone()
    one[0] = (vertices[0] + 1) % length
    yield one


def broken_schedules(schedule, length):
    """Schedules that no tree has."""
    yield torch.zeros_like(schedule)
    yield torch.full_like(schedule, -1)
    yield schedule.flip(1)
    for most in (2**31 - 1, 2000, 9):
        noise = torch.randint(-most, most, schedule.shape, device="cuda").int()
        yield noise
        yield torch.where(torch.rand(schedule.shape, device="cuda") < 0.05, noise, schedule)
        alone = schedule.clone()  # the steps stay as they are: only spines and pieces, if there are any, are wrong
        alone[:, 2 * length :] = noise[:, 2 * length :]
        yield alone


def never_walked(schedule, length):
    """Which vertices are in no step of a schedule."""
    vertex = schedule[:, : 2 * length : 2].long() & 0xFFFFFFFF
    visited = torch.zeros(len(schedule), length, dtype=torch.bool, device="cuda")
    return ~visited.scatter(1, vertex.clamp_max(length - 1), True)


class Scans:
    """All scans along trees, with inputs for which no schedule makes sums grow."""

    def __init__(self, batch, length, channels, states, dtype):
        self.u, self.grad, self.delta = (rand(batch, length, channels, dtype=dtype) for _ in range(3))
        self.weight = (1e-5 * rand(batch, length, channels)).to(dtype)
        self.A, self.bias = -10 - rand(channels, dtype=wide(dtype)), 0.5 + rand(channels, dtype=wide(dtype))
        self.rates = -10 - rand(channels, states, dtype=wide(dtype))
        self.B, self.C = (rand(batch, length, states, dtype=dtype) for _ in range(2))

    def filled(self, value):
        """The same with all numbers replaced."""
        other = copy.copy(self)
        vars(other).update({name: torch.full_like(x, value) for name, x in vars(self).items()})
        return other

    def run(self, parent, order, schedule):
        """All results: with a row for each vertex; with a row made by two vertices; and sums over all vertices."""
        operators, B = torch.ops.tree_ssm, self.B[..., 0]
        rows, shifted, sums = [], [], []
        weights = {self.weight.dtype: self.weight, self.A.dtype: self.weight.to(self.A.dtype)}
        for both, weight in itertools.product((True, False), weights.values()):
            rows.append(operators.tree_scan(self.u, weight, parent, order, both, schedule))
            rows += operators.tree_scan_backward(self.grad, self.u, weight, parent, order, both, schedule)
        selective = (self.u, self.delta, self.A, B, self.bias, schedule)
        rows.append(operators.selective_tree_scan(*selective))
        grad_x, grad_delta, grad_A, grad_B, grad_bias = operators.selective_tree_scan_backward(self.grad, *selective)
        rows += [grad_x, grad_delta, grad_B]
        sums += [grad_A, grad_bias]
        for next_step in (False, True):
            subtree = (self.u, self.delta, self.rates, self.B, self.C, self.bias, parent, order, next_step, schedule)
            y, root_state = operators.selective_subtree_scan(*subtree)
            grad_x, grad_delta, grad_A, grad_B, grad_C, grad_bias = operators.selective_subtree_scan_backward(
                self.grad, torch.ones_like(root_state), *subtree
            )
            rows += [y, grad_x, grad_B, grad_C]
            (shifted if next_step else rows).append(grad_delta)
            sums += [root_state, grad_A, grad_bias]
        return rows, shifted, sums


def check_scans(scans, parent, order, schedule, right):
    """Run all scans after filling free memory, and the shared memory of the kernels, and look at the results."""
    missing = never_walked(schedule, parent.shape[1])
    scans.filled(torch.nan).run(parent, order, right)
    for byte in (NAN, LARGE):
        poison(byte)
        rows, shifted, sums = scans.run(parent, order, schedule)
        check([*rows, *shifted, *sums])
        for number, result in enumerate(rows):
            assert result[missing].eq(0).all(), number
        # Of such a row, a part comes from the vertex's own step and a part from that of the vertex before it.
        assert shifted[0][missing & missing.roll(1, 1)].eq(0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("states", [1, 5])
@pytest.mark.parametrize("length", [1, 9, 300, 700, 5000])  # 700 vertices are cut into pieces
def test_vertices_that_no_walk_visits_have_zeros(length, states, dtype):
    batch, channels = 2, 40
    scans = Scans(batch, length, channels, states, dtype)
    order = torch.arange(length, device="cuda").expand(batch, -1)
    for parent in [trees(batch, length)] + [chains(batch, length)] * (length < 1000):
        right = torch.ops.tree_ssm.tree_schedule(parent)
        poison(LARGE)
        once = scans.run(parent, order, right)
        check([result for results in once for result in results])
        for broken in broken_parents(parent):
            check_scans(scans, broken, order, torch.ops.tree_ssm.tree_schedule(broken), right)
        for schedule in broken_schedules(right, length):
            check_scans(scans, parent, order, schedule, right)
        poison(NAN)
        for results, before in zip(scans.run(parent, order, right), once, strict=True):
            assert all(map(torch.equal, results, before))


@pytest.mark.parametrize("channels", [3, 64])
@pytest.mark.parametrize("batch", [1, 5])
def test_public_functions_with_what_is_no_tree(batch, channels):
    length = 600
    scans = Scans(batch, length, channels, 2, torch.float32)
    order = torch.arange(length, device="cuda").expand(batch, -1)
    functions = [
        (lambda tree: lambda u, w: tree_scan(u, w, tree), (scans.u, scans.weight)),
        (lambda tree: lambda u, w: tree_scan(u, w, tree, direction="up"), (scans.u, scans.weight)),
        (
            lambda tree: lambda x, delta, A, B, bias: selective_tree_scan(x, delta, A, B, bias, tree),
            (scans.u, scans.delta, scans.A, scans.B[..., 0], scans.bias),
        ),
        (
            lambda tree: lambda x, delta, A, B, C, bias: subtree_scan(x, delta, A, B, C, bias, tree)[0],
            (scans.u, scans.delta, scans.rates, scans.B, scans.C, scans.bias),
        ),
    ]
    for parent in broken_parents(trees(batch, length)):
        for function, inputs in functions:
            poison(NAN)
            check(gradients(function(Tree(parent, order)), inputs))


def test_a_schedule_may_begin_anywhere_in_memory():
    batch, length = 2, 700
    parent = trees(batch, length)
    order = torch.arange(length, device="cuda").expand(batch, -1)
    u, weight = rand(batch, length, 8), rand(batch, length, 8)
    schedule = torch.ops.tree_ssm.tree_schedule(parent)
    moved = torch.empty(schedule.numel() + 1, dtype=torch.int32, device="cuda")[1:].view_as(schedule).copy_(schedule)
    expected = torch.ops.tree_ssm.tree_scan(u, weight, parent, order, True, schedule)
    assert torch.equal(torch.ops.tree_ssm.tree_scan(u, weight, parent, order, True, moved), expected)
