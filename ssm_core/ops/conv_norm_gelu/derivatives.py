"""The operator and its gradients by differentiable operations, for forward mode and derivatives of higher orders."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import conv_norm_gelu_reference


def conv_norm_gelu_composite(
    wanted: Sequence[bool],
    images: Tensor,  # [B, 3, H, W]
    weight: Tensor,  # [C, 3, 3, 3]
    bias: Tensor,  # [C]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    eps: float,
) -> tuple[Tensor]:
    """Compute ``ssm_core::conv_norm_gelu``."""
    return (conv_norm_gelu_reference(images, weight, bias, norm_weight, norm_bias, eps),)


def conv_norm_gelu_backward_composite(
    wanted: Sequence[bool],
    grad_y: Tensor,  # [B, ⌈H/2⌉, ⌈W/2⌉, C]
    images: Tensor,  # [B, 3, H, W]
    weight: Tensor,  # [C, 3, 3, 3]
    bias: Tensor,  # [C]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute ``ssm_core::conv_norm_gelu_backward``: the gradients of the parameters, in the type of ``bias``."""
    rounded, wide = images.to(weight.dtype), bias.dtype
    windows = F.unfold(rounded.to(wide), 3, padding=1, stride=2)  # [B, 27, P]
    x = (weight.flatten(1).to(wide) @ windows).mT + bias  # [B, P, C]
    centred = x - x.mean(-1, keepdim=True)
    factor = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    n = centred * factor
    u = n * norm_weight + norm_bias
    slope = 0.5 * torch.erfc(u * -(0.5**0.5)) + u * torch.exp(-0.5 * u.square()) / math.sqrt(2 * math.pi)
    grad_u = grad_y.flatten(1, 2).to(wide) * slope
    grad_n = grad_u * norm_weight
    grad_x = factor * (grad_n - grad_n.mean(-1, keepdim=True) - n * (grad_n * n).mean(-1, keepdim=True))
    grad_weight = (windows @ grad_x).sum(0).mT.reshape(weight.shape)
    return grad_weight, grad_x.sum((0, 1)), (grad_u * n).sum((0, 1)), grad_u.sum((0, 1))
