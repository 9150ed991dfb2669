"""The first half of an image network's stem, a convolution, a layer norm and GELU, computed in one pass."""

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import require_same_device
from ssm_core.ops.registry import has_kernel

from .reference import conv_norm_gelu_reference
from .register import require_stem_shapes

_NAME = "ssm_core::conv_norm_gelu"
_HALF_TYPES = (torch.bfloat16, torch.float16)
# As in csrc/conv_norm_gelu/cuda/tuning.h: the numbers of channels that kernels are compiled for.
CHANNELS = (24, 32, 40, 48, 64)


def conv_norm_gelu(
    images: Tensor,  # [B, 3, H, W]
    weight: Tensor,  # [C, 3, 3, 3]
    bias: Tensor,  # [C]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    eps: float = 1e-6,
    backend: Backend = "auto",
) -> Tensor:  # [B, ⌈H/2⌉, ⌈W/2⌉, C]
    """Compute y = GELU(LN(conv(images))), with a convolution of stride 2 and padding 1.

    The kernel reads the images and writes y, where layers write a map of the same size in between up to three times.
    It is for GPUs from compute capability 8.0 on, weights of half types and the widths of ``CHANNELS``. Everything else
    is computed by PyTorch's layers.

    Args:
        images: the images, float32 or in the dtype of ``weight``, to which they are rounded.
        weight: the convolution's weight. It has the dtype of the result.
        bias: the convolution's bias.
        norm_weight: the norm's weight.
        norm_bias: the norm's bias.
        eps: the norm's epsilon.
        backend: the implementation; ``"auto"`` takes the kernel where there is one, and PyTorch's layers elsewhere.

    Returns:
        The map, channels last. The kernel computes in float32 what lies between the products and the result.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    tensors = {"images": images, "weight": weight, "bias": bias, "norm_weight": norm_weight, "norm_bias": norm_bias}
    require_same_device("conv_norm_gelu", **tensors)
    require_stem_shapes(images, weight, bias, norm_weight, norm_bias)
    if images.dtype not in (torch.float32, weight.dtype):
        raise ValueError(f"conv_norm_gelu: images must be float32 or {weight.dtype} as weight is, got {images.dtype}")
    fits = has_conv_norm_gelu_kernel(images, weight.dtype, weight.shape[0])
    if backend == "auto" and not fits:
        return conv_norm_gelu_reference(images, weight, bias, norm_weight, norm_bias, eps)
    if choose_backend("conv_norm_gelu", _NAME, backend, images.device) == "reference":
        return conv_norm_gelu_reference(images, weight, bias, norm_weight, norm_bias, eps)
    if not fits:
        raise ValueError(
            f"conv_norm_gelu: the kernel takes weights of half types and {', '.join(map(str, CHANNELS))} channels on "
            f"GPUs from compute capability 8.0 on, got {weight.dtype} and {weight.shape[0]} channels on {images.device}"
        )
    parameters = weight.contiguous(), *(x.float().contiguous() for x in (bias, norm_weight, norm_bias))
    y: Tensor = torch.ops.ssm_core.conv_norm_gelu(images.contiguous(), *parameters, eps)
    return y


def has_conv_norm_gelu_kernel(images: Tensor, dtype: torch.dtype, channels: int) -> bool:
    """Whether the compiled library has a kernel for such images and such a result.

    Args:
        images: the images ``[B, 3, H, W]``.
        dtype: of the weight, and so of the result.
        channels: number of channels of the result.
    """
    if not images.is_cuda or images.shape[1] != 3 or dtype not in _HALF_TYPES or not has_kernel(_NAME, "cuda"):
        return False
    return _fits(channels, images.device)


# torch.compile calls this once while it traces.
@torch.compiler.assume_constant_result
def _fits(channels: int, device: torch.device) -> bool:
    index = torch.cuda.current_device() if device.index is None else device.index
    return bool(torch.ops.ssm_build.conv_norm_gelu_fits(channels, index))


__all__ = ["conv_norm_gelu", "conv_norm_gelu_reference", "has_conv_norm_gelu_kernel"]
