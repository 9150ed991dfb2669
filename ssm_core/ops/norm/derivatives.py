"""The norms and their gradients by differentiable operations, for forward mode and derivatives of higher orders."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype

from .reference import gated_norm_reference, norm_reference, residual_norm_reference, scaled


def norm_composite(
    wanted: Sequence[bool],
    x: Tensor,  # [B, L, C]
    weight: Tensor,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor]:
    """Compute ``ssm_core::norm``."""
    return (norm_reference(x, weight, bias, eps, centred, dtype),)


def gated_norm_composite(
    wanted: Sequence[bool],
    x: Tensor,  # [B, L, C]
    gate: Tensor,  # [B, L, C]
    weight: Tensor,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    centred: bool,
) -> tuple[Tensor]:
    """Compute ``ssm_core::gated_norm``."""
    return (gated_norm_reference(x, gate, weight, bias, eps, centred, x.dtype),)


def residual_norm_composite(
    wanted: Sequence[bool],
    x: Tensor,  # [B, L, C]
    residual: Tensor,  # [B, L, C]
    scale: Tensor | None,  # [B]
    weight: Tensor,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Compute ``ssm_core::residual_norm``."""
    return residual_norm_reference(x, residual, scale, weight, bias, eps, centred, dtype)


def _gradients(
    grad_y: Tensor,  # [B, L, C]
    grad_more: Tensor | None,  # [B, L, C]
    x: Tensor,  # [B, L, C]
    weight: Tensor,  # [C]
    eps: float,
    centred: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, not yet rounded, of the weight and of the bias, by the formulas of the README."""
    wide = accumulate_dtype(x.dtype)
    g, rows = grad_y.to(wide), x.to(wide)
    if centred:
        rows = rows - rows.mean(-1, keepdim=True)
    factor = (rows.square().mean(-1, keepdim=True) + eps).rsqrt()
    n, wg = rows * factor, weight * g
    rest = wg - n * (wg * n).mean(-1, keepdim=True)
    if centred:
        rest = rest - wg.mean(-1, keepdim=True)
    grad = factor * rest
    tokens = tuple(range(x.dim() - 1))
    return grad if grad_more is None else grad + grad_more.to(wide), (g * n).sum(tokens), g.sum(tokens)


def norm_backward_composite(
    wanted: Sequence[bool],
    grad_y: Tensor,  # [B, L, C]
    grad_more: Tensor | None,  # [B, L, C]
    x: Tensor,  # [B, L, C]
    weight: Tensor,  # [C]
    eps: float,
    centred: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``ssm_core::norm_backward``."""
    grad_x, grad_weight, grad_bias = _gradients(grad_y, grad_more, x, weight, eps, centred)
    return grad_x.to(x.dtype), grad_weight, grad_bias


def gated_norm_backward_composite(
    wanted: Sequence[bool],
    grad_y: Tensor,  # [B, L, C]
    x: Tensor,  # [B, L, C]
    gate: Tensor,  # [B, L, C]
    weight: Tensor,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    centred: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute ``ssm_core::gated_norm_backward``."""
    wide = accumulate_dtype(x.dtype)
    g, z = grad_y.to(wide), gate.to(wide)
    opened = z.sigmoid()
    silu = z * opened
    normed = norm_reference(x, weight, bias, eps, centred, wide)
    grad_gate = g * normed * (opened + silu * (1 - opened))
    grad_x, grad_weight, grad_bias = _gradients(g * silu, None, x, weight, eps, centred)
    return grad_x.to(x.dtype), grad_gate.to(gate.dtype), grad_weight, grad_bias


def residual_norm_backward_composite(
    wanted: Sequence[bool],
    grad_y: Tensor,  # [B, L, C]
    grad_stream: Tensor | None,  # [B, L, C]
    stream: Tensor,  # [B, L, C]
    scale: Tensor | None,  # [B]
    weight: Tensor,  # [C]
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute ``ssm_core::residual_norm_backward``."""
    grad, grad_weight, grad_bias = _gradients(grad_y, grad_stream, stream, weight, eps, centred)
    return scaled(grad, scale).to(dtype), grad.to(stream.dtype), grad_weight, grad_bias
