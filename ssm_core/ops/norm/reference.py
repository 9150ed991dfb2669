"""The norms over channels in plain PyTorch: the definitions that kernels are tested against."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype


def norm_reference(
    x: Tensor,  # [B, ..., C]
    weight: Tensor,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> Tensor:  # [B, ..., C]
    """Bring each row to mean 0, if it is to be centred, and to mean square 1; scale and shift its channels.

    Everything is computed in float32 or float64, and rounded once to ``dtype``.
    """
    # Not F.layer_norm: its derivatives in forward mode are themselves differentiated wrongly (pytorch issue 196700).
    wide = accumulate_dtype(x.dtype)
    rows = x.to(wide)
    if centred:
        rows = rows - rows.mean(-1, keepdim=True)
    y = rows * (rows.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.to(wide)
    return (y if bias is None else y + bias.to(wide)).to(dtype)


def gated_norm_reference(
    x: Tensor,  # [B, ..., C]
    gate: Tensor,  # [B, ..., C]
    weight: Tensor,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> Tensor:  # [B, ..., C]
    """Compute norm(x) · silu(gate) in float32 or float64, and round once to ``dtype``."""
    wide = accumulate_dtype(x.dtype)
    return (norm_reference(x, weight, bias, eps, centred, wide) * F.silu(gate.to(wide))).to(dtype)


def residual_norm_reference(
    x: Tensor,  # [B, ..., C]
    residual: Tensor,  # [B, ..., C]
    scale: Tensor | None,  # [B]
    weight: Tensor,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # [B, ..., C], [B, ..., C]
    """Compute stream = residual + scale · x, in the residual's type, and norm(stream). Return the norm first."""
    wide = accumulate_dtype(residual.dtype)
    stream = (residual.to(wide) + scaled(x.to(wide), scale)).to(residual.dtype)
    return norm_reference(stream, weight, bias, eps, centred, dtype), stream


def scaled(
    x: Tensor,  # [B, ..., C]
    scale: Tensor | None,  # [B]
) -> Tensor:  # [B, ..., C]
    """Multiply each sample by its factor."""
    return x if scale is None else x * scale.to(x.dtype).reshape(-1, *(1,) * (x.dim() - 1))
