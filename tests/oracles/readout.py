"""Inputs of the state's readout, and its result with every gradient under a name."""

import torch

from tree_ssm.ops import state_readout

NAMES = ("h", "x", "C", "D", "weight", "bias")


def inputs(shape, dtype=torch.float64):
    h, x = torch.randn(2, *shape, dtype=dtype)
    return [h * 2 + 1, x, torch.randn(shape[:2], dtype=dtype), *torch.randn(3, shape[2], dtype=dtype)]


def readout_and_gradients(leaves, backend, device="cpu"):
    torch.manual_seed(1)
    g = torch.randn(leaves[1].shape, dtype=torch.float64).to(leaves[1].dtype).to(device)
    leaves = [v.detach().to(device).requires_grad_() for v in leaves]
    y = state_readout(*leaves, backend=backend)
    gradients = torch.autograd.grad(y, leaves, g)
    return {"y": y.detach()} | {f"grad_{name}": v for name, v in zip(NAMES, gradients, strict=True)}
