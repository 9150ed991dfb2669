"""The readout and its gradients by differentiable operations, for forward mode and derivatives of higher orders."""

from collections.abc import Sequence

from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype

from .reference import state_readout_reference


def readout_composite(
    wanted: Sequence[bool],
    h: Tensor,  # [B, L, D]
    x: Tensor,  # [B, L, D]
    C: Tensor,  # [B, L]
    D: Tensor,  # [D]
    weight: Tensor,  # [D]
    bias: Tensor,  # [D]
    eps: float,
) -> tuple[Tensor]:
    """Compute ``tree_ssm::state_readout``."""
    return (state_readout_reference(h, x, C, D, weight, bias, eps),)


def readout_backward_composite(
    wanted: Sequence[bool],
    grad_y: Tensor,  # [B, L, D]
    h: Tensor,  # [B, L, D]
    x: Tensor,  # [B, L, D]
    C: Tensor,  # [B, L]
    D: Tensor,  # [D]
    weight: Tensor,  # [D]
    bias: Tensor,  # [D]
    eps: float,
) -> tuple[Tensor, ...]:
    """Compute ``tree_ssm::state_readout_backward`` by the formulas of the README."""
    dtype = accumulate_dtype(x.dtype)
    g, state, c = grad_y.to(dtype), h.to(dtype), C.to(dtype).unsqueeze(-1)
    centred = state - state.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    n, wg = centred * scale, weight * g
    rest = wg - wg.mean(-1, keepdim=True) - n * (wg * n).mean(-1, keepdim=True)
    return (
        (c * scale * rest).to(h.dtype),
        (D * g).to(x.dtype),
        (g * (n * weight + bias)).sum(-1).to(C.dtype),
        (g * x.to(dtype)).sum((0, 1)),
        (c * g * n).sum((0, 1)),
        (c * g).sum((0, 1)),
    )
