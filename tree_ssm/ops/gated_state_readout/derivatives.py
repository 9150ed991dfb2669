"""The operator and its gradients by differentiable operations, for forward mode and derivatives of higher orders."""

from collections.abc import Sequence

from torch import Tensor

from ssm_core.ops.norm.derivatives import gated_norm_backward_composite
from tree_ssm.ops.state_readout import state_readout_reference
from tree_ssm.ops.state_readout.derivatives import readout_backward_composite

from .reference import gated_state_readout_reference


def gated_readout_composite(
    wanted: Sequence[bool],
    h: Tensor,  # [B, L, D]
    x: Tensor,  # [B, L, D]
    C: Tensor,  # [B, L]
    D: Tensor,  # [D]
    weight: Tensor,  # [D]
    bias: Tensor,  # [D]
    eps: float,
    gate: Tensor,  # [B, L, D]
    out_weight: Tensor,  # [D]
    out_bias: Tensor,  # [D]
    out_eps: float,
) -> tuple[Tensor]:
    """Compute ``tree_ssm::gated_state_readout``."""
    return (gated_state_readout_reference(h, x, C, D, weight, bias, eps, gate, out_weight, out_bias, out_eps),)


def gated_readout_backward_composite(
    wanted: Sequence[bool],
    grad_y: Tensor,  # [B, L, D]
    h: Tensor,  # [B, L, D]
    x: Tensor,  # [B, L, D]
    C: Tensor,  # [B, L]
    D: Tensor,  # [D]
    weight: Tensor,  # [D]
    bias: Tensor,  # [D]
    eps: float,
    gate: Tensor,  # [B, L, D]
    out_weight: Tensor,  # [D]
    out_bias: Tensor,  # [D]
    out_eps: float,
) -> tuple[Tensor, ...]:
    """Compute ``tree_ssm::gated_state_readout_backward``."""
    r = state_readout_reference(h, x, C, D, weight, bias, eps)
    grad_r, *of_norm = gated_norm_backward_composite(wanted, grad_y, r, gate, out_weight, out_bias, out_eps, True)
    return *readout_backward_composite(wanted, grad_r, h, x, C, D, weight, bias, eps), *of_norm
