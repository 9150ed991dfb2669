"""Makes inputs of the selective scan along several directions, and computes its result with every gradient."""

import torch
from oracles.gradients import with_gradients

from ssm_core.ops import directional_scan

NAMES = ("y", "x", "delta", "A", "B", "C", "D", "delta_bias")


def make_inputs(batch, length, channels, directions, states, dtype=torch.float64, grad=True, device="cpu"):
    """Return x, delta, A, B, C, D and delta_bias."""
    parameter = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = [
        torch.randn(batch, length, channels, dtype=dtype),
        torch.randn(batch, directions, length, channels, dtype=dtype) - 1,
        -torch.rand(directions, channels, states, dtype=parameter) - 0.1,
        torch.randn(batch, directions, length, states, dtype=dtype),
        torch.randn(batch, directions, length, states, dtype=dtype),
        torch.randn(directions, channels, dtype=parameter),
        torch.randn(directions, channels, dtype=parameter) * 0.1,
    ]
    return [x.to(device).requires_grad_(grad) for x in inputs]


def make_order(batch, directions, length, one_order=False, device="cpu"):
    """Return a random order for each sample and direction ``[B, K, L]``, or one for all directions of a sample."""
    order = torch.stack([torch.randperm(length) for _ in range(batch * directions)]).view(batch, directions, length)
    order = order.to(device)
    return order[:, :1].expand(-1, directions, -1) if one_order else order


def run_with_gradients(inputs, **options):
    """Return y and the gradients of the inputs. Every call uses the same upstream gradient."""
    x = inputs[0]
    g = torch.linspace(-1, 2, x.numel(), dtype=torch.float64, device=x.device).to(x.dtype).view_as(x)
    return with_gradients(lambda *values: directional_scan(*values, **options), inputs, g)


def operator_arguments(device):
    """Yield arguments of ``torch.ops.ssm_core.selective_scan``, once with all inputs and once without optional ones."""
    x, delta, A, B, C, D, bias = make_inputs(2, 5, 3, 2, 2, dtype=torch.float32, device=device)
    scanned = (x.unsqueeze(1), delta, A, B, C)
    yield (*scanned, D, bias, make_order(2, 2, 5, device=device), [False, True], True)
    yield (*scanned, None, None, None, [False, True], False)
