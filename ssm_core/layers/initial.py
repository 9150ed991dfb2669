"""The initial weights of linear layers."""

import torch
from timm.layers import trunc_normal_
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype

# Standard deviations beyond which no weight lies: one of 500 million draws of a normal distribution would.
FURTHEST = 6.0


@torch.no_grad()
def draw_weights(weight: Tensor, std: float) -> None:
    """Fill a weight from a normal distribution, as the authors of both families do by timm's ``trunc_normal_``.

    That function turns uniform numbers into normal ones. The outermost numbers of float32, one in some ten million,
    become ±2, which is a hundred standard deviations of 0.02. So this function cuts numbers off. Half types have far
    fewer numbers, so that it draws in float32 for them.

    Args:
        weight: any parameter. It is changed in place.
        std: the standard deviation.
    """
    values = torch.empty_like(weight, dtype=accumulate_dtype(weight.dtype))
    trunc_normal_(values, std=std)
    weight.copy_(values.clamp_(-FURTHEST * std, FURTHEST * std))
