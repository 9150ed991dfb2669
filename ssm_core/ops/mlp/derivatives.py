"""The MLP and its gradients by differentiable operations, for forward mode and derivatives of higher orders."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import mlp_reference


def mlp_composite(
    wanted: Sequence[bool],
    x: Tensor,  # [T, C]
    weight1: Tensor,  # [H, C]
    bias1: Tensor,  # [H]
    weight2: Tensor,  # [C, H]
    bias2: Tensor,  # [C]
) -> tuple[Tensor]:
    """Compute ``ssm_core::mlp``."""
    return (mlp_reference(x, weight1, bias1, weight2, bias2),)


def mlp_backward_composite(
    wanted: Sequence[bool],
    grad_y: Tensor,  # [T, C]
    x: Tensor,  # [T, C]
    weight1: Tensor,  # [H, C]
    bias1: Tensor,  # [H]
    weight2: Tensor,  # [C, H]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute ``ssm_core::mlp_backward``: ∂x, h = GELU(u), ∂u = W₂ᵀ ∂y ⊙ (Φ(u) + u φ(u)) and ∂b₁."""
    u = F.linear(x, weight1, bias1.to(x.dtype)).float()
    below = 0.5 * torch.erfc(u * -(0.5**0.5))
    slope = below + u * torch.exp(-0.5 * u.square()) / math.sqrt(2 * math.pi)
    grad_u = (grad_y @ weight2).float() * slope
    rounded = grad_u.to(x.dtype)
    return rounded @ weight1, (u * below).to(x.dtype), rounded, grad_u.sum(0)
