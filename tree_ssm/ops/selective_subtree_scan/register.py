"""Fake, autograd, autocast and FLOP rules of ``tree_ssm::selective_subtree_scan``; its schema: csrc/library.cpp."""

import torch
from torch.utils.flop_counter import register_flop_formula

from ssm_core import _ext
from ssm_core.ops.backend import no_second_derivative

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(x, delta, A, B, C, delta_bias, parent, order, next, schedule=None):
    return torch.empty_like(x, memory_format=torch.contiguous_format), A.new_empty(x.shape[0], *A.shape)


def _fake_backward(grad_y, grad_root_state, x, delta, A, B, C, delta_bias, parent, order, next, schedule=None):
    inputs = (x, delta, A, B, C, delta_bias)
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs)


def _setup_context(ctx, inputs, output):
    # Inputs only: a state is cheaper to compute again than to keep. Gradients that are not there stay None.
    *tensors, ctx.next, schedule = inputs
    ctx.save_for_backward(*tensors, schedule)
    ctx.y_like = output[0].shape, output[0].dtype
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_y, grad_root_state):
    *tensors, schedule = ctx.saved_tensors
    if grad_y is None:
        shape, dtype = ctx.y_like
        grad_y = torch.zeros(shape, dtype=dtype, device=tensors[0].device)
    gradients = torch.ops.tree_ssm.selective_subtree_scan_backward(
        grad_y, grad_root_state, *tensors, ctx.next, schedule
    )
    return *gradients, None, None, None, None


# The scan and the product with C; the elementwise operations around a scan are not counted anywhere.
def _flops(x_shape, delta_shape, A_shape, *args, out_shape=None) -> int:
    """A multiply-add for the edge and one for the output, for every token, channel and state."""
    batch, length, _ = x_shape
    channels, states = A_shape
    return 4 * batch * length * channels * states


def _flops_backward(grad_shape, root_shape, x_shape, delta_shape, A_shape, *args, out_shape=None) -> int:
    """The states again, their gradient, and a multiply-add for each of A, B, C, x and the two steps."""
    batch, length, _ = x_shape
    channels, states = A_shape
    return 14 * batch * length * channels * states


if _ext.load():
    torch.library.register_fake("tree_ssm::selective_subtree_scan", _fake)
    torch.library.register_fake("tree_ssm::selective_subtree_scan_backward", _fake_backward)
    torch.library.register_autograd("tree_ssm::selective_subtree_scan", _backward, setup_context=_setup_context)
    torch.library.register_autograd(
        "tree_ssm::selective_subtree_scan_backward", no_second_derivative("selective_subtree_scan")
    )
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast casts nothing: the parameters keep the precision they come in.
        _library.impl("selective_subtree_scan", torch.library.fallthrough_kernel, key)
    register_flop_formula(torch.ops.tree_ssm.selective_subtree_scan)(_flops)
    register_flop_formula(torch.ops.tree_ssm.selective_subtree_scan_backward)(_flops_backward)
