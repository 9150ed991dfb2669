"""Tests that hostile calls on a GPU end, stay inside the tensors and leave the device usable.

Whether they stay inside is seen under compute-sanitizer: see ``tests/fuzz_operators.py`` and CONTRIBUTING.md.
"""

import pytest
import torch
from hostile.judging import NAMES, Judge

from ssm_core.ops import directional_scan
from ssm_core.testing import assert_close
from tree_ssm.ops import Tree, grid_distances, tree_scan

pytestmark = pytest.mark.gpu


def chains(batch, length):
    """Parents of trees that are paths."""
    return (torch.arange(length) - 1).clamp_min(0).expand(batch, -1).contiguous().cuda()


def garbage(schedule):
    """Schedules of the same shape that no tree has: zeros, noise, and noise that is nearly a schedule."""
    yield torch.zeros_like(schedule)
    for most in (2**31 - 1, 2000, 9):
        noise = torch.randint(-most, most, schedule.shape, device="cuda").int()
        yield noise
        yield torch.where(torch.rand(schedule.shape, device="cuda") < 0.05, noise, schedule)
    yield torch.full_like(schedule, -1)
    yield schedule.flip(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [1, 9, 700])  # 700 vertices are cut into pieces
def test_walks_end_and_stay_inside_whatever_the_schedule(length, dtype):
    torch.manual_seed(0)
    batch, channels, states = 2, 40, 3
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    parent = chains(batch, length)
    order = torch.arange(length, device="cuda").expand(batch, -1)
    schedule = torch.ops.tree_ssm.tree_schedule(parent)
    u, weight, g = torch.rand(3, batch, length, channels, device="cuda", dtype=dtype)
    A, bias = -torch.rand(channels, device="cuda", dtype=wide), torch.rand(channels, device="cuda", dtype=wide)
    rates = -torch.rand(channels, states, device="cuda", dtype=wide)
    B, C = torch.rand(2, batch, length, states, device="cuda", dtype=dtype)
    operators = torch.ops.tree_ssm
    right = operators.tree_scan(u, weight, parent, order, True, schedule)
    for bad in garbage(schedule):
        for both in (True, False):
            operators.tree_scan(u, weight, parent, order, both, bad)
            operators.tree_scan_backward(g, u, weight, parent, order, both, bad)
        operators.selective_tree_scan(u, weight, A, B[..., 0], bias, bad)
        operators.selective_tree_scan_backward(g, u, weight, A, B[..., 0], bias, bad)
        for next_step in (True, False):
            arguments = (u, weight, rates, B, C, bias, parent, order, next_step, bad)
            operators.selective_subtree_scan(*arguments)
            operators.selective_subtree_scan_backward(g, None, *arguments)
    torch.cuda.synchronize()
    assert torch.equal(operators.tree_scan(u, weight, parent, order, True, schedule), right)


def test_orders_that_are_no_permutations_end_and_stay_inside():
    x, delta = torch.rand(2, 300, 40, device="cuda"), torch.rand(2, 4, 300, 40, device="cuda")
    A, B = -torch.rand(4, 40, 1, device="cuda"), torch.rand(2, 4, 300, 1, device="cuda")
    for bad in (-1, 300, 2**31, 2**32, 2**62, -(2**63), 7):
        order = torch.randint(300, (2, 4, 300), device="cuda")
        order[:, :, ::3] = bad
        leaf = x.clone().requires_grad_()
        directional_scan(leaf, delta, A, B, B, order=order).sum().backward()
    torch.cuda.synchronize()


@pytest.mark.parametrize("channels", [3, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_samples_of_maps_may_lie_anywhere(channels, dtype):
    x = torch.randn(1, 3, 5, channels, dtype=dtype, device="cuda")
    once = grid_distances(x)
    assert torch.equal(grid_distances(x.expand(300, -1, -1, -1)), once.expand(300, -1))
    size = 15 * channels
    for distance in (size, size + 1, size + 8, 3 * size):  # between the samples; not all are multiples of 16 bytes
        spread = torch.randn(4 * distance, dtype=dtype, device="cuda")
        apart = spread.as_strided((4, 3, 5, channels), (distance, 5 * channels, channels, 1))
        actual, expected = grid_distances(apart), grid_distances(apart.contiguous())
        if distance * torch.finfo(dtype).bits // 8 % 16:  # such rows are read one by one, and added in another order
            assert_close(actual, expected)
        else:
            assert torch.equal(actual, expected)


def test_an_empty_batch_is_taken():
    tokens = torch.rand(0, 5, 4, device="cuda")
    tree = Tree(*torch.zeros(2, 0, 5, dtype=torch.int64, device="cuda"))
    assert tree_scan(tokens, tokens, tree).shape == (0, 5, 4)
    assert grid_distances(torch.rand(0, 4, 3, 5, device="cuda").permute(0, 2, 3, 1)).shape == (0, 22)
    delta, B = torch.rand(0, 2, 4, 5, device="cuda").mT, torch.rand(0, 2, 5, 1, device="cuda")
    A = torch.full((2, 4, 1), -0.5, device="cuda", requires_grad=True)
    y = directional_scan(tokens, delta, A, B, B)
    y.sum().backward()
    assert y.shape == (0, 5, 4)
    assert A.grad.eq(0).all()


@pytest.mark.parametrize("stretch", range(4))
def test_drawn_calls_are_right_or_refused(stretch):
    judge = Judge(seed=stretch, device="cuda", large=False)
    outcomes = [judge.judge(number) for number in range(5 * len(NAMES))]
    assert not [outcome for outcome in outcomes if outcome.is_finding]
    assert {outcome.kind for outcome in outcomes} == {"right", "ran", "refused"}
