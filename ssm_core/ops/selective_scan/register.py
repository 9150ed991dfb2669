"""Fake, autograd, autocast and FLOP rules of ``ssm_core::selective_scan``; the schemas are in ``csrc/library.cpp``."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ssm_core import _ext

_library = torch.library.Library("ssm_core", "IMPL")


def _fake(u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus):
    batch, _, _, channels = u.shape
    last_state = A.new_empty(batch, delta.shape[1], channels, A.shape[2])
    return torch.empty_like(u, memory_format=torch.contiguous_format), last_state


def _fake_backward(grad_y, grad_last_state, u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus):
    def like(x: Tensor) -> Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    per_channel = A.new_empty(A.shape[:2])
    return like(u), like(delta), like(A), like(B), like(C), per_channel, torch.empty_like(per_channel)


def _setup_context(ctx, inputs, output):
    *tensors, reverse, delta_softplus = inputs
    ctx.save_for_backward(*tensors)
    ctx.reverse, ctx.delta_softplus = reverse, delta_softplus
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_y, grad_last_state):
    u, delta, A, B, C, D, delta_bias, order = ctx.saved_tensors
    if grad_y is None:
        if grad_last_state is None:
            return (None,) * 10
        grad_y = torch.zeros_like(u)
    gradients = torch.ops.ssm_core.selective_scan_backward(
        grad_y, grad_last_state, u, delta, A, B, C, D, delta_bias, order, ctx.reverse, ctx.delta_softplus
    )
    *first, grad_D, grad_bias = gradients
    return (*first, grad_D if D is not None else None, grad_bias if delta_bias is not None else None, None, None, None)


def _autocast(device_type: str):
    """Under autocast what varies with the token is read in the low precision; parameters and state stay float32."""

    def rule(u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus):
        dtype = torch.get_autocast_dtype(device_type)
        u, delta, B, C = (x if x.dtype == torch.float64 else x.to(dtype) for x in (u, delta, B, C))
        with torch.autocast(device_type, enabled=False):
            return torch.ops.ssm_core.selective_scan(u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus)

    return rule


def _flops(u_shape, delta_shape, A_shape, *_, out_shape=None, **__) -> int:
    """9·B·L·D·N + B·D·L a direction, the count of the VMamba family's papers; a multiply-add is one of their FLOPs.

    ``FlopCounterMode`` counts a multiply-add twice, so the formula is doubled here to stay comparable with the
    convolutions and matrix products beside it.
    """
    batch, directions, length, channels = delta_shape
    return 2 * batch * directions * length * channels * (9 * A_shape[-1] + 1)


def _flops_backward(grad_shape, grad_last_shape, u_shape, delta_shape, A_shape, *_, out_shape=None, **__) -> int:
    """Twice the forward pass, as for a matrix product."""
    return 2 * _flops(u_shape, delta_shape, A_shape)


if _ext.load():
    torch.library.register_fake("ssm_core::selective_scan", _fake)
    torch.library.register_fake("ssm_core::selective_scan_backward", _fake_backward)
    torch.library.register_autograd("ssm_core::selective_scan", _backward, setup_context=_setup_context)
    for key, device_type in (("AutocastCPU", "cpu"), ("AutocastCUDA", "cuda")):
        _library.impl("selective_scan", _autocast(device_type), key)
    register_flop_formula(torch.ops.ssm_core.selective_scan)(_flops)
    register_flop_formula(torch.ops.ssm_core.selective_scan_backward)(_flops_backward)
