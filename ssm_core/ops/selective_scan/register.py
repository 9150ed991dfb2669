"""Declares ``ssm_core::selective_scan`` and registers its fake, autograd and autocast rules.

The schemas are in ``csrc/selective_scan/schema.cpp``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import require_shapes
from ssm_core.ops.derivatives import register_derivatives, register_recomputed_derivatives
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Table, Work, register
from ssm_core.ops.vmap import register_rule

from . import batching, recurrence, slabs

_library = torch.library.Library("ssm_core", "IMPL")


def _check_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor | None,
) -> None:
    require_shapes(
        "selective_scan",
        u=(u, "BGLD"),
        delta=(delta, "BKLD"),
        A=(A, "KDN"),
        B=(B, "BKLN"),
        C=(C, "BKLN"),
        D=(D, "KD"),
        delta_bias=(delta_bias, "KD"),
        order=(order, "BKL"),
    )


def _fake(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor | None,
    reverse: Sequence[bool],
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    _check_shapes(u, delta, A, B, C, D, delta_bias, order)
    batch, _, _, channels = u.shape
    last_state = A.new_empty(batch, delta.shape[1], channels, A.shape[2])
    return torch.empty_like(u, memory_format=torch.contiguous_format), last_state


def _fake_backward(
    grad_y: Tensor,
    grad_last_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor | None,
    reverse: Sequence[bool],
    delta_softplus: bool,
) -> tuple[Tensor, ...]:
    _check_shapes(u, delta, A, B, C, D, delta_bias, order)
    require_shapes("selective_scan", u=(u, "BGLD"), A=(A, "KDN"), grad_y=(grad_y, "BGLD"))
    require_shapes("selective_scan", delta=(delta, "BKLD"), A=(A, "KDN"), grad_last_state=(grad_last_state, "BKDN"))

    def like(x: Tensor) -> Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    per_channel = A.new_empty(A.shape[:2])
    return like(u), like(delta), like(A), like(B), like(C), per_channel, torch.empty_like(per_channel)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, reverse, delta_softplus = inputs
    ctx.save_for_backward(*tensors)
    ctx.reverse, ctx.delta_softplus = reverse, delta_softplus


def _backward(ctx: Any, grad_y: Tensor | None, grad_last_state: Tensor | None) -> tuple[Tensor | None, ...]:
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


def _autocast(device_type: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """Under autocast, inputs that vary with the token are cast to the low precision; parameters and state are not."""

    def rule(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor]:  # D, delta_bias, order, reverse, delta_softplus
        dtype = torch.get_autocast_dtype(device_type)
        u, delta, B, C = (x if x.dtype == torch.float64 else x.to(dtype) for x in (u, delta, B, C))
        with torch.autocast(device_type, enabled=False):
            return torch.ops.ssm_core.selective_scan(u, delta, A, B, C, *rest)

    return rule


def _flops(u_shape: Shape, delta_shape: Shape, A_shape: Shape, *_: Any, out_shape: Any = None) -> int:
    """9·B·L·D·N + B·D·L multiply-adds a direction, as papers on vision models with selective scans count them.

    Their papers call a multiply-add one FLOP. Here it is two, as in a matrix product.
    """
    batch, directions, length, channels = delta_shape
    return 2 * batch * directions * length * channels * (9 * A_shape[-1] + 1)


def _flops_backward(
    grad_shape: Shape,
    grad_last_shape: Shape | None,
    u_shape: Shape,
    delta_shape: Shape,
    A_shape: Shape,
    *_: Any,
    out_shape: Any = None,
) -> int:
    """Twice the forward pass, as for a matrix product."""
    return 2 * _flops(u_shape, delta_shape, A_shape)


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_OPERATOR = Operator(
    "ssm_core::selective_scan",
    needs=("ssm_core::selective_scan_backward", recurrence.NAME),
    work=Work.SCAN,
    flops={"ssm_core::selective_scan": _flops, "ssm_core::selective_scan_backward": _flops_backward},
    onnx=_onnx,
    examples=_examples,
)

if register(_OPERATOR):
    torch.library.register_fake("ssm_core::selective_scan", _fake)
    torch.library.register_fake("ssm_core::selective_scan_backward", _fake_backward)
    register_derivatives(
        _library,
        "ssm_core::selective_scan",
        setup_context=_setup_context,
        backward=_backward,
        jvp=slabs.forward_jvp,
    )
    register_recomputed_derivatives(
        _library, "ssm_core::selective_scan_backward", vjp=slabs.backward_vjp, jvp=slabs.backward_jvp
    )
    register_rule("ssm_core::selective_scan", batching.forward_rule)
    register_rule("ssm_core::selective_scan_backward", batching.backward_rule)
    for key, device_type in (("AutocastCPU", "cpu"), ("AutocastCUDA", "cuda")):
        _library.impl("selective_scan", _autocast(device_type), key)
