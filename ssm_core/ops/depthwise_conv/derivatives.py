"""The convolution and its gradients by differentiable operations, for forward mode and derivatives of higher orders."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype

from .reference import convolved, depthwise_conv_reference, shifted


def depthwise_conv_composite(
    wanted: Sequence[bool],
    x: Tensor,  # [B, H, W, C]
    weight: Tensor,  # [C, 3, 3]
    bias: Tensor | None,  # [C]
) -> tuple[Tensor]:
    """Compute ``ssm_core::depthwise_conv``."""
    return (depthwise_conv_reference(x, weight, bias),)


def depthwise_conv_backward_composite(
    wanted: Sequence[bool],
    grad_y: Tensor,  # [B, H, W, C]
    x: Tensor,  # [B, H, W, C]
    weight: Tensor,  # [C, 3, 3]
    bias: Tensor | None,  # [C]
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``ssm_core::depthwise_conv_backward`` by the formulas of the README."""
    wide = accumulate_dtype(x.dtype)
    p = convolved(x, weight, bias)
    s = p.sigmoid()
    g = grad_y.to(wide) * s * (1 + p * (1 - s))
    of_taps = [(g * shift).sum((0, 1, 2)) for shift in shifted(x.to(wide))]
    # Backwards, each place of the window is reached from the opposite one.
    return (
        convolved(g, weight.flip((1, 2)), None).to(x.dtype),
        torch.stack(of_taps, dim=1).unflatten(1, weight.shape[1:]),
        g.sum((0, 1, 2)),
    )


def sum_of_gradients(
    grad_y: Tensor,  # [B, H, W, C]
    *more: Tensor | None,  # [B, H, W, C]
) -> Tensor:  # [B, H, W, C]
    """Add up gradients of one map, and round once."""
    wide = accumulate_dtype(grad_y.dtype)
    given = [grad.to(wide) for grad in more if grad is not None]
    return sum(given, grad_y.to(wide)).to(grad_y.dtype)


def depthwise_conv_sum_backward_composite(
    wanted: Sequence[bool],
    grad_y: Tensor,  # [B, H, W, C]
    x: Tensor,  # [B, H, W, C]
    weight: Tensor,  # [C, 3, 3]
    bias: Tensor | None,  # [C]
    second: Tensor | None,  # [B, H, W, C]
    third: Tensor | None,  # [B, H, W, C]
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``ssm_core::depthwise_conv_sum_backward``."""
    return depthwise_conv_backward_composite(wanted, sum_of_gradients(grad_y, second, third), x, weight, bias)
