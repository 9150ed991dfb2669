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
# Bytes: of NaN in all floating-point types, and of 61,280 in float16 and 1e36 or more in others.
NAN, LARGE = 0xFF, 0x7B
NAMES = {NAN: "NaN", LARGE: "large numbers"}


@pytest.fixture(autouse=True)
def memory_stays_as_it_was(poisoned_memory):
    # The shared fixture of the operators' tests fills new tensors. Here they have to show what was there before.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.cuda.empty_cache()


def poison(byte):
    """Leave free memory in torch's cache, full of one byte: gaps of all sizes, and more than a call takes."""
    sizes = [2**k for k in range(9, 20) for _ in range(2)] + [2**20] * 12 + [2**25] * 8
    held = [torch.full((size,), byte, dtype=torch.uint8, device="cuda") for size in sizes]
    del held


def check(case, results, unvisited=()):
    """Results, by name, have to be finite and small, and zero where a mask, by the result's name, says so."""
    flags, unvisited = [], dict(unvisited)
    for name, result in results.items():
        most = 6e4 if result.dtype == torch.float16 else 1e9
        missing = unvisited.get(name)
        zeros = torch.zeros((), dtype=torch.bool, device="cuda")
        if missing is not None:
            zeros = (missing & result.ne(0).reshape(*missing.shape, -1).any(-1)).any()
        flags.append(torch.stack([~result.isfinite().all(), result.abs().max() >= most, zeros]))
    complaints = ("is not finite", "is large", "is not zero where no step has been")
    wrong = [
        f"{name} {complaint}"
        for name, row in zip(results, torch.stack(flags).tolist(), strict=True)
        for complaint, found in zip(complaints, row, strict=True)
        if found
    ]
    assert not wrong, f"{case}: " + ", ".join(wrong)


def check_equal(results, before):
    """Results, by name, have to be what they were before, bit for bit."""
    wrong = [name for name, result in results.items() if not torch.equal(result, before[name])]
    assert not wrong, "other bits than the first time: " + ", ".join(wrong)


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
    """Orders that are no permutations, by name."""
    length = order.shape[-1]
    yield "one token", torch.zeros_like(order)
    yield "tokens twice", order // 2
    for bad in (-1, length, 2**31, 2**32 + 1, 2**62, -(2**63)):
        out = order.clone()
        out[..., ::3] = bad
        yield f"steps to {bad}", out
    yield "no token", torch.full_like(order, -1)
    yield "random tokens", torch.randint(length, order.shape, device="cuda")
    if order.dim() == 3:
        for direction in (0, -1):
            one = order.clone()
            one[0, direction, : length // 2] = length - 1
            yield f"direction {direction} of one sample", one


def left_out(order, length):
    """Which tokens each order leaves out."""
    steps = torch.where((order >= 0) & (order < length), order, length)
    visited = torch.zeros(*order.shape[:-1], length + 1, dtype=torch.bool, device="cuda")
    return ~visited.scatter(-1, steps, True)[..., :length]


SHAPES = [(1, 1), (1, 4), (150, 1), (300, 1), (300, 4), (300, 20), (5000, 1), (5000, 4), (150, 20)]
DIRECTIONS = [(1, True), (4, False), (6, True), (6, False), (4, True), (1, False)]
# All types for every shape. Neighbouring shapes give a type other directions.
ORDER_CASES = [
    (*shape, *DIRECTIONS[(row + column) % len(DIRECTIONS)], dtype)
    for row, shape in enumerate(SHAPES)
    for column, dtype in enumerate(DTYPES)
]


@pytest.mark.parametrize(("length", "states", "directions", "shared", "dtype"), ORDER_CASES, ids=str)
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
    names = ("y", "grad_x", "grad_delta", "grad_A", "grad_B", "grad_C", "grad_D", "grad_bias")

    def run(order, byte):
        poison(byte)
        results = gradients(lambda *leaves: directional_scan(*leaves, order=order, reverse=reverse), inputs)
        return dict(zip(names, results, strict=True))

    once = run(right, LARGE)
    check("a permutation", once)
    for number, (name, order) in enumerate(broken_orders(right)):
        missing = left_out(order.expand(batch, directions, length), length)
        unvisited = dict.fromkeys(("grad_delta", "grad_B", "grad_C"), missing)
        unvisited |= dict.fromkeys(("y", "grad_x"), missing.any(1))
        byte = NAN if (number + states // 2) % 3 else LARGE  # in turns: a breakage has NaN for some number of states
        check(f"{name} beside {NAMES[byte]}", run(order, byte), unvisited)
    check_equal(run(right, NAN), once)


@pytest.mark.parametrize(("states", "dtype"), [(1, torch.float32), (4, torch.bfloat16)], ids=str)
def test_many_samples_whose_directions_are_scanned_one_after_another(states, dtype):
    batch, directions, length, channels = 96, 3, 70, 320
    x, delta = rand(batch, length, channels, dtype=dtype), rand(batch, directions, length, channels, dtype=dtype)
    A = -0.1 - rand(directions, channels, states)
    B, C = (rand(batch, directions, length, states, dtype=dtype) for _ in range(2))
    right = permutations(batch, directions, length)
    for name, order in broken_orders(right):
        missing = left_out(order, length)
        poison(NAN)
        results = gradients(lambda *leaves, order=order: directional_scan(*leaves, order=order), (x, delta, A, B, C))
        unvisited = dict.fromkeys(("grad_delta", "grad_B", "grad_C"), missing)
        unvisited |= dict.fromkeys(("y", "grad_x"), missing.any(1))
        names = ("y", "grad_x", "grad_delta", "grad_A", "grad_B", "grad_C")
        check(name, dict(zip(names, results, strict=True)), unvisited)


@pytest.mark.parametrize("length", [49, 40000])  # the longer one has two windows
def test_channels_first_with_groups(length):
    batch, channels, groups, states = 2, 12, 3, 2
    u, delta = rand(batch, channels, length), rand(batch, channels, length)
    A, B, C = -0.1 - rand(channels, states), *rand(2, batch, groups, states, length)
    for name, order in broken_orders(permutations(batch, groups, length)):
        missing = left_out(order, length).repeat_interleave(channels // groups, dim=1)
        poison(NAN)
        results = gradients(
            lambda *leaves, order=order: selective_scan(*leaves, delta_softplus=True, order=order), (u, delta, A, B, C)
        )
        names = ("y", "grad_u", "grad_delta", "grad_A", "grad_B", "grad_C")
        check(name, dict(zip(names, results, strict=True)), dict.fromkeys(names[:3], missing))


def chains(batch, length):
    """Parents of trees that are paths."""
    return (torch.arange(length) - 1).clamp_min(0).expand(batch, -1).contiguous().cuda()


def trees(batch, length):
    """Parents of random trees with the root 0."""
    vertices = torch.arange(length)
    return (torch.rand(batch, length, dtype=torch.float64) * vertices).long().cuda()


def broken_parents(parent):
    """Parents of what is no tree, by name."""
    length = parent.shape[1]
    vertices = torch.arange(length, device="cuda").expand_as(parent)
    yield "only roots", vertices.contiguous()
    yield "a cycle", (vertices + 1) % length
    yield "another star", torch.full_like(parent, length - 1)
    two_roots, loop, outside, one = (parent.clone() for _ in range(4))
    two_roots[:, length // 2] = length // 2
    loop[:, length // 3] = length - 1
    outside[:, ::5] = length + 7
    outside[:, 1::7] = -3
    one[0] = (vertices[0] + 1) % length
    yield from {"two roots": two_roots, "a loop": loop, "parents outside": outside, "one cycle": one}.items()
    yield "random parents", torch.randint(length, parent.shape, device="cuda")


def broken_schedules(schedule, length):
    """Schedules that no tree has, by name."""
    yield "a schedule of 0", torch.zeros_like(schedule)
    yield "a schedule of -1", torch.full_like(schedule, -1)
    yield "a schedule backwards", schedule.flip(1)
    for most in (2**31 - 1, 2000, 9):
        noise = torch.randint(-most, most, schedule.shape, device="cuda").int()
        yield f"a schedule of noise up to {most}", noise
        few = torch.rand(schedule.shape, device="cuda") < 0.05
        yield f"a schedule with noise up to {most}", torch.where(few, noise, schedule)
        if schedule.shape[1] > 2 * length + 3:  # only spines and pieces are wrong
            alone = schedule.clone()
            alone[:, 2 * length :] = noise[:, 2 * length :]
            yield f"pieces of noise up to {most}", alone


def never_walked(schedule, length):
    """Which vertices are in no step of a schedule."""
    vertex = schedule[:, : 2 * length : 2].long() & 0xFFFFFFFF
    visited = torch.zeros(len(schedule), length, dtype=torch.bool, device="cuda")
    return ~visited.scatter(1, vertex.clamp_max(length - 1), True)


class Scans:
    """All scans along trees, with inputs for which no schedule makes results grow.

    The backward passes keep their sums in the results' memory. If a walk takes a vertex again and again, a sum is
    read there that is a result by now, and each result is made of the one before. So weights are small, and gradients
    and B so small that each result is smaller than the one before: below 1/2, and below 1 over the largest step.
    """

    def __init__(self, batch, length, channels, states, dtype):
        self.u, self.delta = (rand(batch, length, channels, dtype=dtype) for _ in range(2))
        self.grad = 0.25 * rand(batch, length, channels, dtype=dtype)
        self.weight = (1e-5 * rand(batch, length, channels)).to(dtype)
        self.A, self.bias = -10 - rand(channels, dtype=wide(dtype)), 0.5 + rand(channels, dtype=wide(dtype))
        self.rates = -10 - rand(channels, states, dtype=wide(dtype))
        self.B, self.C = 0.3 * rand(batch, length, states, dtype=dtype), rand(batch, length, states, dtype=dtype)

    def filled(self, value):
        """The same with all numbers replaced."""
        other = copy.copy(self)
        vars(other).update({name: torch.full_like(x, value) for name, x in vars(self).items()})
        return other

    def run(self, parent, order, schedule):
        """All results by name: with a row for each vertex; with a row made by two vertices; and sums over vertices."""
        operators, B = torch.ops.tree_ssm, self.B[..., 0]
        rows, shifted, sums = {}, {}, {}
        weights = {self.weight.dtype: self.weight, self.A.dtype: self.weight.to(self.A.dtype)}
        for both, weight in itertools.product((True, False), weights.values()):
            name = f"tree_scan of {'both ways' if both else 'the way up'}, {weight.dtype}:"
            rows[f"{name} h"] = operators.tree_scan(self.u, weight, parent, order, both, schedule)
            rows[f"{name} grad_u"], rows[f"{name} grad_weight"] = operators.tree_scan_backward(
                self.grad, self.u, weight, parent, order, both, schedule
            )
        name, selective = "selective_tree_scan:", (self.u, self.delta, self.A, B, self.bias, schedule)
        rows[f"{name} h"] = operators.selective_tree_scan(*selective)
        results = operators.selective_tree_scan_backward(self.grad, *selective)
        rows[f"{name} grad_x"], rows[f"{name} grad_delta"], rows[f"{name} grad_B"] = *results[:2], results[3]
        sums[f"{name} grad_A"], sums[f"{name} grad_bias"] = results[2], results[4]
        for next_step in (False, True):
            name = f"selective_subtree_scan{' of next steps' if next_step else ''}:"
            subtree = (self.u, self.delta, self.rates, self.B, self.C, self.bias, parent, order, next_step, schedule)
            rows[f"{name} y"], root_state = operators.selective_subtree_scan(*subtree)
            grad_x, grad_delta, grad_A, grad_B, grad_C, grad_bias = operators.selective_subtree_scan_backward(
                self.grad, torch.ones_like(root_state), *subtree
            )
            rows |= {f"{name} grad_x": grad_x, f"{name} grad_B": grad_B, f"{name} grad_C": grad_C}
            (shifted if next_step else rows)[f"{name} grad_delta"] = grad_delta
            sums |= {f"{name} root_state": root_state, f"{name} grad_A": grad_A, f"{name} grad_bias": grad_bias}
        return rows, shifted, sums


def check_scans(case, scans, parent, order, schedule, right, byte):
    """Run all scans after filling the shared memory of the kernels, and free memory, and look at the results."""
    missing = never_walked(schedule, parent.shape[1])
    scans.filled(torch.nan).run(parent, order, right)
    poison(byte)
    rows, shifted, sums = scans.run(parent, order, schedule)
    # Of a shifted row, a part comes from the vertex's own step and a part from that of the vertex before it.
    unvisited = dict.fromkeys(rows, missing) | dict.fromkeys(shifted, missing & missing.roll(1, 1))
    check(f"{case} beside {NAMES[byte]}", rows | shifted | sums, unvisited)


# 700 and 5,000 vertices are cut into pieces. For 300 and for 700, all types with either number of states.
TREE_CASES = [
    (1, 1, trees, torch.float32),
    (1, 5, trees, torch.bfloat16),
    (9, 1, chains, torch.float16),
    (9, 5, trees, torch.float64),
    *((300, *case) for case in itertools.product((1,), (chains,), DTYPES)),
    *((300, *case) for case in itertools.product((5,), (trees,), DTYPES)),
    *((700, *case) for case in itertools.product((1,), (trees,), DTYPES)),
    *((700, *case) for case in itertools.product((5,), (chains,), DTYPES)),
    (5000, 1, trees, torch.bfloat16),
    (5000, 5, trees, torch.float32),
]


@pytest.mark.parametrize(
    ("length", "states", "make", "dtype"), TREE_CASES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_vertices_that_no_walk_visits_have_zeros(length, states, make, dtype):
    batch, channels = 2, 40
    scans, parent = Scans(batch, length, channels, states, dtype), make(batch, length)
    order = torch.arange(length, device="cuda").expand(batch, -1)
    right = torch.ops.tree_ssm.tree_schedule(parent)

    def run_right(byte):
        poison(byte)
        rows, shifted, sums = scans.run(parent, order, right)
        return rows | shifted | sums

    once = run_right(LARGE)
    check("a tree", once)
    cases = [(name, broken, torch.ops.tree_ssm.tree_schedule(broken)) for name, broken in broken_parents(parent)]
    cases += [(name, parent, broken) for name, broken in broken_schedules(right, length)]
    for number, (name, given, schedule) in enumerate(cases):
        byte = NAN if (number + states) % 3 else LARGE
        check_scans(name, scans, given, order, schedule, right, byte)
    check_equal(run_right(NAN), once)


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
    for name, parent in broken_parents(trees(batch, length)):
        for number, (function, inputs) in enumerate(functions):
            poison(NAN)
            results = gradients(function(Tree(parent, order)), inputs)
            check(f"{name}, function {number}", {f"result {k}": result for k, result in enumerate(results)})


def test_a_schedule_may_begin_anywhere_in_memory():
    batch, length = 2, 700
    parent = trees(batch, length)
    order = torch.arange(length, device="cuda").expand(batch, -1)
    u, weight = rand(batch, length, 8), rand(batch, length, 8)
    schedule = torch.ops.tree_ssm.tree_schedule(parent)
    moved = torch.empty(schedule.numel() + 1, dtype=torch.int32, device="cuda")[1:].view_as(schedule).copy_(schedule)
    expected = torch.ops.tree_ssm.tree_scan(u, weight, parent, order, True, schedule)
    assert torch.equal(torch.ops.tree_ssm.tree_scan(u, weight, parent, order, True, moved), expected)
