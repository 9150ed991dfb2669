"""Fake, autograd, autocast and FLOP rules of ``tree_ssm::tree_scan``; the schemas are in ``csrc/library.cpp``."""

import torch
from torch.utils.flop_counter import register_flop_formula

from ssm_core import _ext
from ssm_core.ops.backend import no_second_derivative

_library = torch.library.Library("tree_ssm", "IMPL")


def _piece_size(batch, length):
    # As in csrc/cuda/tree_schedule.h.
    if length < 512 or batch * batch >= length:
        return 0
    size = 64
    while size * 512 < batch * length or size * 256 < length:
        size *= 2
    return size


def _fake_schedule(parent):
    # ScheduleLayout::words() of csrc/cuda/tree_schedule.h: the steps of a walk; if it is cut, also spines and pieces.
    batch, length = parent.shape
    size = _piece_size(batch, length)
    words = 4 * length + 4 + 4 * (3 * (length // size) + 2) if size else (2 * length + 3) // 4 * 4
    return parent.new_empty(batch, words, dtype=torch.int32)


def _fake(u, weight, parent, order, both, schedule=None):
    return torch.empty_like(u, memory_format=torch.contiguous_format)


def _fake_backward(grad_h, u, weight, parent, order, both, schedule=None):
    grad_u = torch.empty_like(u, memory_format=torch.contiguous_format)
    return grad_u, torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output):
    # Inputs only: ξ and h are cheaper to compute again than to keep.
    *tensors, ctx.both, schedule = inputs
    ctx.save_for_backward(*tensors, schedule)


def _backward(ctx, grad_h):
    *tensors, schedule = ctx.saved_tensors
    gradients = torch.ops.tree_ssm.tree_scan_backward(grad_h, *tensors, ctx.both, schedule)
    return *gradients, None, None, None, None


def _flops(u_shape, weight_shape, parent_shape, order_shape, both, schedule_shape=None, *, out_shape=None) -> int:
    """An edge and channel costs one multiply-add up and two more down; a multiply-add is two FLOPs."""
    batch, length, channels = u_shape
    return (6 if both else 2) * batch * (length - 1) * channels


def _flops_backward(
    grad_shape, u_shape, weight_shape, parent_shape, order_shape, both, schedule_shape=None, *, out_shape=None
) -> int:
    """As computed, ξ and h again included: 15 FLOPs an edge and channel, 5 for the up pass alone.

    Both: the forward pass twice, for (ξ, h) and for (η, G), and ∂w = η·s + ξ·t, which shares its differences s and t
    with them. Up: ξ, the descent of G, and ∂w = ξ·G.
    """
    batch, length, channels = u_shape
    return (15 if both else 5) * batch * (length - 1) * channels


if _ext.load():
    torch.library.register_fake("tree_ssm::tree_schedule", _fake_schedule)
    torch.library.register_fake("tree_ssm::tree_scan", _fake)
    torch.library.register_fake("tree_ssm::tree_scan_backward", _fake_backward)
    torch.library.register_autograd("tree_ssm::tree_scan", _backward, setup_context=_setup_context)
    torch.library.register_autograd("tree_ssm::tree_scan_backward", no_second_derivative("tree_scan"))
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast casts nothing: u may be half, but a weight keeps the precision it comes in.
        _library.impl("tree_scan", torch.library.fallthrough_kernel, key)
    register_flop_formula(torch.ops.tree_ssm.tree_scan)(_flops)
    register_flop_formula(torch.ops.tree_ssm.tree_scan_backward)(_flops_backward)
