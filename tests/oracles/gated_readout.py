"""Makes inputs of the state's readout with a gated norm, and computes its result with every gradient under a name."""

from functools import partial

import torch
from oracles import readout
from oracles.gradients import with_gradients

from ssm_core.ops import gated_layer_norm
from tree_ssm.ops import gated_state_readout, state_readout

NAMES = (*readout.NAMES, "grad_gate", "grad_out_weight", "grad_out_bias")


def inputs(shape, dtype=torch.float64):
    """Return h, x, C, D, weight, bias, gate, out_weight and out_bias."""
    gate = torch.randn(shape, dtype=dtype) * 2 - 1
    return [*readout.inputs(shape, dtype), gate, *torch.randn(2, shape[2], dtype=dtype)]


def halved(leaves, dtype):
    """Return the same inputs, with the maps and C in a half type."""
    return [v if v.dim() == 1 else v.to(dtype) for v in leaves]


def two_operators(h, x, C, D, weight, bias, gate, out_weight, out_bias, backend="auto"):
    """Return the readout and then its gated norm."""
    r = state_readout(h, x, C, D, weight, bias, backend=backend)
    return gated_layer_norm(r, gate, out_weight, out_bias, backend=backend)


def readout_and_gradients(leaves, backend, device="cpu", function=gated_state_readout):
    torch.manual_seed(1)
    x = leaves[1]
    g = torch.randn(x.shape, dtype=torch.float64).to(device, x.dtype)
    found = with_gradients(partial(function, backend=backend), [v.to(device) for v in leaves], g)
    return dict(zip(NAMES, found, strict=True))
