"""Fake, autograd, autocast and FLOP rules of ``tree_ssm::state_readout``; the schemas are in ``csrc/library.cpp``."""

import math

import torch
from torch.utils.flop_counter import register_flop_formula

from ssm_core import _ext

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(h, x, C, D, weight, bias, eps):
    return torch.empty_like(x)


def _fake_backward(grad_y, h, x, C, D, weight, bias, eps):
    return torch.empty_like(h), torch.empty_like(x), C.new_empty(C.shape), *(torch.empty_like(D) for _ in range(3))


def _setup_context(ctx, inputs, output):
    # Mean and deviation are cheaper to compute again than to keep: the row has to be read in any case.
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_y):
    return *torch.ops.tree_ssm.state_readout_backward(grad_y, *ctx.saved_tensors, ctx.eps), None


def _flops(h_shape, *_, out_shape=None, **__) -> int:
    """The layer norm as the papers of this family count it, five an element, doubled as in ssm_core/flops.py."""
    return 2 * 5 * math.prod(h_shape)


if _ext.load():
    torch.library.register_fake("tree_ssm::state_readout", _fake)
    torch.library.register_fake("tree_ssm::state_readout_backward", _fake_backward)
    torch.library.register_autograd("tree_ssm::state_readout", _backward, setup_context=_setup_context)
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Half types are read and written as they come, and computed with in float32.
        _library.impl("state_readout", torch.library.fallthrough_kernel, key)
    register_flop_formula(torch.ops.tree_ssm.state_readout)(_flops)
