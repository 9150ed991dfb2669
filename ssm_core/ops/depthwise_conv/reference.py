"""The depthwise convolution with SiLU in plain PyTorch: the definition that kernels are tested against."""

import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype

SIDE = 3  # of the window


def depthwise_conv_reference(
    x: Tensor,  # [B, H, W, C]
    weight: Tensor,  # [C, 3, 3]
    bias: Tensor | None,  # [C]
) -> Tensor:  # [B, H, W, C]
    """Compute SiLU(conv(x)). Everything is float32 or float64, and rounded once to the type of ``x``."""
    p = convolved(x, weight, bias)
    return (p * p.sigmoid()).to(x.dtype)


def convolved(
    x: Tensor,  # [B, H, W, C]
    weight: Tensor,  # [C, 3, 3]
    bias: Tensor | None,  # [C]
) -> Tensor:  # [B, H, W, C]
    """Sum the nine weighted shifts of the map, with zeros around it, in float32 or float64."""
    wide = accumulate_dtype(x.dtype)
    taps = weight.to(wide).flatten(1).unbind(1)
    p = sum(shift * tap for shift, tap in zip(shifted(x.to(wide)), taps, strict=True))
    assert isinstance(p, Tensor)
    return p if bias is None else p + bias.to(wide)


def shifted(
    x: Tensor,  # [B, H, W, C]
) -> list[Tensor]:  # nine of [B, H, W, C]
    """Return the map as each place of the window sees it, row by row."""
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    return [padded[:, i : i + height, j : j + width] for i in range(SIDE) for j in range(SIDE)]
