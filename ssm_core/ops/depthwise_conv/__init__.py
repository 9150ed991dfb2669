"""Depthwise convolution 3×3 of a channels-last map, and SiLU, computed in one pass."""

from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import FLOATS, accumulate_dtype, require_same_device, shape_of

from . import register as _register  # noqa: F401  registers the operators' rules
from .reference import depthwise_conv_reference

MOST_READERS = 3  # whose gradients the backward kernel can read
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
    _check_arguments(x, weight, bias)
    if choose_backend("depthwise_conv", "ssm_core::depthwise_conv", backend, x.device) == "reference":
        return depthwise_conv_reference(x, weight if weight.dim() == _WEIGHT else weight.squeeze(1), bias)
    return torch.ops.ssm_core.depthwise_conv(*_as_kernel_reads(x, weight, bias))


def depthwise_conv_for(
    readers: int,
    x: Tensor,  # [B, H, W, C]
    weight: Tensor,  # [C, 3, 3]
    bias: Tensor | None = None,  # [C]
) -> tuple[Tensor, ...]:  # [B, H, W, C] each
    """Compute :func:`depthwise_conv` by the compiled kernel, and return its map once for each of its readers.

    The maps are the same memory. Where each reader gets its own, the kernel of the backward pass reads the gradient of
    each and adds them up itself. Of one map with several readers, PyTorch writes the sum of the gradients first, and a
    GPU takes as long for that as for a third to a half of the backward pass.

    Args:
        readers: how many there are: 1, 2 or 3.
        x: see :func:`depthwise_conv`.
        weight: see there.
        bias: see there.

    Returns:
        ``readers`` views of y. They have derivatives of first order in reverse mode.

    Raises:
        ValueError: a number, shape, dtype or device does not fit; the message says which.
    """
    if not 1 <= readers <= MOST_READERS:
        raise ValueError(f"depthwise_conv_for: there can be 1 to {MOST_READERS} readers, got {readers}")
    _check_arguments(x, weight, bias)
    maps: tuple[Tensor, ...] = _ForReaders.apply(readers, *_as_kernel_reads(x, weight, bias))
    return maps


class _ForReaders(torch.autograd.Function):
    """The convolution, whose backward pass gets the gradient of each reader."""

    @staticmethod
    def forward(ctx: Any, readers: int, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, weight, bias)
        y = torch.ops.ssm_core.depthwise_conv(x, weight, bias)
        return tuple(y.view_as(y) for _ in range(readers))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        first, second, third = (*gradients, None, None)[:MOST_READERS]
        grad_x, grad_weight, grad_bias = torch.ops.ssm_core.depthwise_conv_sum_backward(
            first, x, weight, bias, second, third
        )
        return None, grad_x, grad_weight, None if bias is None else grad_bias


def _check_arguments(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
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


def _as_kernel_reads(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    wide = accumulate_dtype(x.dtype)
    windows = weight if weight.dim() == _WEIGHT else weight.squeeze(1)
    of_channels = None if bias is None else bias.to(wide).contiguous()
    return x.contiguous(), windows.to(wide).contiguous(), of_channels


__all__ = ["depthwise_conv", "depthwise_conv_for", "depthwise_conv_reference"]
