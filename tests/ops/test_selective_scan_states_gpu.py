"""Tests the GPU kernels of the selective scan for two states a channel and more, which walk a sequence by tokens."""

import pytest
import torch
from oracles import selective_scans
from oracles.selective_scans import NAMES, run_with_gradients

from ssm_core.ops import directional_scan
from ssm_core.testing import assert_close

pytestmark = pytest.mark.gpu


def assert_exact(inputs, order=None, reverse=None):
    """Compare with the CPU kernel in float64, for inputs of any precision but the half types."""
    actual = run_with_gradients([x.cuda().detach().requires_grad_() for x in inputs], order=order, reverse=reverse)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    order = None if order is None else order.cpu()
    expected = run_with_gradients(exact, order=order, reverse=reverse, backend="cpu")
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        assert_close(a.cpu(), e, name)


# 2, 4, 8 and 16 fill the lanes of a channel. More than 16 take several launches.
@pytest.mark.parametrize("states", [2, 3, 4, 5, 8, 13, 16, 17, 24, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_any_number_of_states(states, dtype):
    inputs = selective_scans.make_inputs(2, 100, 24, 3, states, dtype=dtype)
    assert_exact(inputs, selective_scans.make_order(2, 3, 100, device="cuda"), (False, True, False))


# Enough samples that a launch takes one direction and whole sequences: the sums over directions go from launch to
# launch. 16 states take four lanes with few channels and eight with fewer.
@pytest.mark.parametrize(("batch", "channels"), [(800, 40), (200, 40), (64, 24)])
@pytest.mark.parametrize(("length", "states"), [(70, 16), (70, 24), (200, 3)])
def test_many_samples(batch, channels, length, states):
    inputs = selective_scans.make_inputs(batch, length, channels, 2, states, dtype=torch.float32)
    assert_exact(inputs, selective_scans.make_order(batch, 2, length, True, device="cuda"), (False, True))


@pytest.mark.parametrize("length", [1, 7, 8, 9, 31, 32, 33, 64, 65, 1000])
@pytest.mark.parametrize("channels", [1, 2, 7, 8, 33])
def test_odd_sizes(length, channels):
    inputs = selective_scans.make_inputs(3, length, channels, 2, 6)
    assert_exact(inputs, reverse=(True, False))


@pytest.mark.parametrize("states", [16, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_weights_at_any_address(dtype, states):
    """B and C are copied 16 or 4 bytes at a time, or element by element, and the result is the same."""
    x, delta, A, B, C, D, bias = (
        t.cuda() for t in selective_scans.make_inputs(2, 50, 16, 2, states, dtype, grad=False)
    )
    expected = directional_scan(x, delta, A, B, C, D, bias)
    for before in (1, 2, 3):  # other columns of the same projection
        packed = torch.zeros(2, 2, 50, before + 2 * states + 1, dtype=dtype, device="cuda")
        packed[..., before : before + states] = B
        packed[..., before + states : before + 2 * states] = C
        _, b, c, _ = packed.split([before, states, states, 1], dim=-1)
        assert torch.equal(directional_scan(x, delta, A, b, c, D, bias), expected)
    states_apart = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in (B, C)]
    assert torch.equal(directional_scan(x, delta, A, *states_apart, D, bias), expected)


def test_gradients_without_softplus_and_of_the_last_state():
    x, delta, A, B, C, D, bias = (t.detach().cuda() for t in selective_scans.make_inputs(2, 75, 12, 2, 5))
    arguments = [x.unsqueeze(1), delta.abs(), A, B, C, D, bias.abs()]

    def run(device):
        leaves = [t.to(device).requires_grad_() for t in arguments]
        y, last = torch.ops.ssm_core.selective_scan(*leaves, None, [True, False], False)
        return [y, last, *torch.autograd.grad(y.sin().sum() + last.cos().sum(), leaves)]

    for a, e in zip(run("cuda"), run("cpu"), strict=True):
        assert_close(a.cpu(), e)
