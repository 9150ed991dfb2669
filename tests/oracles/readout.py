"""Makes inputs of the state's readout, and computes its result with every gradient under a name."""

from functools import partial

import torch
from oracles.gradients import with_gradients

from tree_ssm.ops import state_readout

NAMES = ("y", "grad_h", "grad_x", "grad_C", "grad_D", "grad_weight", "grad_bias")


def inputs(shape, dtype=torch.float64):
    h, x = torch.randn(2, *shape, dtype=dtype)
    return [h * 2 + 1, x, torch.randn(shape[:2], dtype=dtype), *torch.randn(3, shape[2], dtype=dtype)]


def readout_and_gradients(leaves, backend, device="cpu"):
    torch.manual_seed(1)
    x = leaves[1]
    g = torch.randn(x.shape, dtype=torch.float64).to(device, x.dtype)
    found = with_gradients(partial(state_readout, backend=backend), [v.to(device) for v in leaves], g)
    return dict(zip(NAMES, found, strict=True))
