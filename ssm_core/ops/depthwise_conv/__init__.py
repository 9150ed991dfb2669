"""Depthwise convolution 3×3 of a channels-last map, and SiLU, computed in one pass."""

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import FLOATS, accumulate_dtype, require_same_device, shape_of

from . import register as _register  # noqa: F401  registers the operators' rules
from .reference import depthwise_conv_reference

_MAP, _WEIGHT = 4, 3  # dimensions


def depthwise_conv(
    x: Tensor,  # [B, H, W, C]
    weight: Tensor,  # [C, 3, 3]
    bias: Tensor | None = None,  # [C]
    backend: Backend = "auto",
) -> Tensor:  # [B, H, W, C]
    """Convolve every channel with a window of its own, and apply SiLU: y = SiLU(conv(x) + bias).

    The window is 3×3, moves by one token, and sees zeros around the map. With the parameters of an
    ``nn.Conv2d(C, C, 3, padding=1, groups=C)`` this is the convolution followed by ``F.silu``.

    Args:
        x: a map with the channels last: float64, float32, bfloat16 or float16.
        weight: the window of every channel, ``[C, 3, 3]``, or ``[C, 1, 3, 3]`` as ``nn.Conv2d`` has it.
        bias: added before SiLU; None for none.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one.

    Returns:
        The map y, in the dtype of ``x``. Everything in between is float32, or float64 for float64.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    if x.dim() != _MAP:
        raise ValueError(f"depthwise_conv: x must be [B, H, W, C], got {shape_of(x)}")
    if x.dtype not in FLOATS:
        raise ValueError(f"depthwise_conv: x must be float64, float32, bfloat16 or float16, got {x.dtype}")
    channels = x.shape[-1]
    if shape_of(weight) not in ((channels, 3, 3), (channels, 1, 3, 3)):
        raise ValueError(
            f"depthwise_conv: weight must be [C, 3, 3] or [C, 1, 3, 3] with C = {channels}, got {shape_of(weight)}"
        )
    if bias is not None and bias.shape != x.shape[-1:]:
        raise ValueError(f"depthwise_conv: bias must be [C] with C = {channels}, got {shape_of(bias)}")
    require_same_device("depthwise_conv", x=x, weight=weight, bias=bias)
    windows = weight if weight.dim() == _WEIGHT else weight.squeeze(1)
    if choose_backend("depthwise_conv", "ssm_core::depthwise_conv", backend, x.device) == "reference":
        return depthwise_conv_reference(x, windows, bias)
    wide = accumulate_dtype(x.dtype)
    of_channels = None if bias is None else bias.to(wide).contiguous()
    return torch.ops.ssm_core.depthwise_conv(x.contiguous(), windows.to(wide).contiguous(), of_channels)


__all__ = ["depthwise_conv", "depthwise_conv_reference"]
