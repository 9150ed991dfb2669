"""Fake, autograd, autocast and FLOP rules of ``tree_ssm::selective_tree_scan``; the schemas are in csrc/library.cpp."""

import torch
from torch.utils.flop_counter import register_flop_formula

from ssm_core import _ext
from ssm_core.ops.backend import no_second_derivative

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(x, delta, A, B, delta_bias, schedule):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_backward(grad_h, x, delta, A, B, delta_bias, schedule):
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, delta, A, B, delta_bias))


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad_h):
    return *torch.ops.tree_ssm.selective_tree_scan_backward(grad_h, *ctx.saved_tensors), None


# The scan itself, as everywhere else: the elementwise operations around it are not counted there either.
def _flops(x_shape, *args, out_shape=None) -> int:
    batch, length, channels = x_shape
    return 6 * batch * (length - 1) * channels


def _flops_backward(grad_shape, *args, out_shape=None) -> int:
    batch, length, channels = grad_shape
    return 15 * batch * (length - 1) * channels


if _ext.load():
    torch.library.register_fake("tree_ssm::selective_tree_scan", _fake)
    torch.library.register_fake("tree_ssm::selective_tree_scan_backward", _fake_backward)
    torch.library.register_autograd("tree_ssm::selective_tree_scan", _backward, setup_context=_setup_context)
    torch.library.register_autograd(
        "tree_ssm::selective_tree_scan_backward", no_second_derivative("selective_tree_scan")
    )
    # Autocast casts nothing: the parameters keep the precision they come in.
    _library.impl("selective_tree_scan", torch.library.fallthrough_kernel, "AutocastCUDA")
    register_flop_formula(torch.ops.tree_ssm.selective_tree_scan)(_flops)
    register_flop_formula(torch.ops.tree_ssm.selective_tree_scan_backward)(_flops_backward)
