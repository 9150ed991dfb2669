"""The stem and the downsampling, which turn images into token maps. Token maps inside the blocks are channels-last."""

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import LayerNorm
from torch import Tensor, nn

from ssm_core.errors import InputError
from ssm_core.ops.calling import NO_TORCHSCRIPT
from ssm_core.ops.conv_norm_gelu import conv_norm_gelu, has_conv_norm_gelu_kernel

from .gelu import GELU
from .mlp import OneOperator
from .norm import FusedLayerNorm, autocast_dtype, is_hooked

# The smallest side of an image, in pixels. It gives a map of 4 × 4 in the second stage and of 1 × 1 in the fourth.
MIN_SIDE = 32
_COLOURS = 3
# Tensor cores read numbers by eight.
_TOGETHER = 8
# The shares of red and blue in a grey pixel, by ITU-R BT.601, as Pillow has them. Green has the rest.
_RED, _BLUE = 0.299, 0.114


def to_channels_last(
    x: Tensor,  # [B, C, H, W]
) -> Tensor:
    """View a map as ``[B, H, W, C]``. The result is contiguous if the map is in the channels-last memory format."""
    return x.permute(0, 2, 3, 1)


def to_channels_first(
    x: Tensor,  # [B, H, W, C]
) -> Tensor:
    """View a map as ``[B, C, H, W]`` without a copy. The result is in the channels-last memory format."""
    return x.permute(0, 3, 1, 2)


def _half(channels: int, out_channels: int, bias: bool) -> nn.Conv2d:
    """Build a convolution that halves the sides of a map, rounding up."""
    return nn.Conv2d(channels, out_channels, kernel_size=3, stride=2, padding=1, bias=bias)


def _window_dtype(images: Tensor, conv: nn.Module) -> torch.dtype | None:
    """Return the dtype in which the first convolution of a stem is a product of windows; None where it is not.

    cuDNN copies images of three channels into padded ones for tensor cores, in either pass, and then computes mostly
    zeros.
    """
    if not images.is_cuda or images.shape[1] % _TOGETHER == 0 or not _halves(conv):
        return None
    dtype = autocast_dtype(images, before_product=True)
    return dtype if dtype in (torch.float16, torch.bfloat16) else None


def _halves(conv: nn.Module) -> bool:
    """Whether a layer is still the convolution of :func:`_half`, and not what users put in its place."""
    if type(conv) is not nn.Conv2d or is_hooked(conv):
        return False
    windows = conv.kernel_size == (3, 3) and conv.stride == (2, 2) and conv.padding == conv.dilation == (1, 1)
    return windows and conv.groups == 1 and conv.padding_mode == "zeros"


def multiply_windows(
    images: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C', C, 3, 3]
    bias: Tensor | None,  # [C']
) -> Tensor:  # [B, ⌈H/2⌉, ⌈W/2⌉, C']
    """Compute a convolution 3×3 of stride 2 and padding 1 as one product of all its windows.

    The windows are written out, with zeros up to a multiple of eight numbers. torch.compile does that in one pass.
    """
    windows = F.pad(images, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2)  # [B, C, H', W', 3, 3]
    rows = windows.permute(0, 2, 3, 1, 4, 5).flatten(3)
    missing = -rows.shape[-1] % _TOGETHER
    return F.linear(F.pad(rows, (0, missing)), F.pad(weight.flatten(1), (0, missing)), bias)


@torch.fx.wrap  # a leaf of graphs, because it looks at shapes
def check_images(images: Tensor, in_chans: int, grey_from_colours: bool, taker: str) -> Tensor:
    """Return images that a network can take.

    Args:
        images: the images.
        in_chans: number of channels that the network takes.
        grey_from_colours: see :class:`Stem`.
        taker: what the network is called in an error.

    Raises:
        InputError: the images are not four-dimensional, have another number of channels, or have a side below 32.
    """
    if images.dim() == 4 and min(images.shape[2:]) >= MIN_SIDE:
        if images.shape[1] == in_chans:
            return images
        if grey_from_colours and in_chans == 1 and images.shape[1] == _COLOURS:
            red, green, blue = images.split(1, dim=1)
            # Differences leave the values of grey pictures exactly as they are.
            return green + _RED * (red - green) + _BLUE * (blue - green)
    raise InputError(
        f"{taker} takes images [B, {in_chans}, H, W] with H and W at least {MIN_SIDE}, "
        f"got a tensor of shape {tuple(images.shape)}; resize, pad or batch the images"
    )


# A graph of torch.fx begins with this function. torch.jit.script shows what it finds under this name, with a beginning
# of its own.
check_images.__dict__["__script_unsupported"] = NO_TORCHSCRIPT.partition(": ")[2]


class Stem(OneOperator):
    """Turns an image into a map whose sides are a quarter of the image's, rounded up.

    The layers are: conv 3×3 stride 2 · LN · GELU · conv 3×3 stride 2 · LN. One operator can compute the first three
    where there is a kernel (:func:`~ssm_core.ops.conv_norm_gelu`).

    Args:
        in_chans: number of channels of the image.
        dim: number C of channels of the result. The first convolution has half as many.
        norm_eps: epsilon of the norms.
        grey_from_colours: whether a stem of one channel also takes images of three channels, and makes them grey.
        taker: what the network is called in the error about images that do not fit.
    """

    NORMS_BEFORE_PRODUCTS = ("norm1",)
    # An activation reads the first. The second begins the residual stream, which under autocast has twice the bytes of
    # what the convolution gives.
    RECOMPUTED_NORMS = ("norm1", "norm2")

    def __init__(
        self, in_chans: int, dim: int, norm_eps: float, grey_from_colours: bool = False, taker: str = "the network"
    ) -> None:
        super().__init__()
        self.in_chans, self.grey_from_colours, self.taker = in_chans, grey_from_colours, taker
        self.conv1 = _half(in_chans, dim // 2, bias=True)
        self.norm1 = LayerNorm(dim // 2, eps=norm_eps)
        self.act = GELU()
        self.conv2 = _half(dim // 2, dim, bias=True)
        self.norm2 = LayerNorm(dim, eps=norm_eps)

    def forward(
        self,
        images: Tensor,  # [B, in_chans, H, W]
    ) -> Tensor:  # [B, ⌈H/4⌉, ⌈W/4⌉, C]
        """Embed the images. The result is channels-last.

        Raises:
            InputError: see :func:`check_images`.
        """
        images = check_images(images, self.in_chans, self.grey_from_colours, self.taker)
        x = self._first_half(images)
        return self.norm2(to_channels_last(self.conv2(to_channels_first(x))))

    def _first_half(
        self,
        images: Tensor,  # [B, in_chans, H, W]
    ) -> Tensor:  # [B, ⌈H/2⌉, ⌈W/2⌉, C/2]
        conv, norm = self.conv1, self.norm1
        # Those who take features by name from graphs of torch.fx expect the layers in them under their names.
        dtype = None if isinstance(images, torch.fx.Proxy) else _window_dtype(images, conv)
        if dtype is None:
            # All convolutions of the network read and write the channels-last memory format from here on. torch.vmap
            # cannot ask for that format, but it can copy a view.
            x = to_channels_last(conv(to_channels_first(to_channels_last(images).contiguous())))
        elif conv.bias is not None and self._is_one_operator(images, dtype):
            return conv_norm_gelu(images, conv.weight.to(dtype), conv.bias, norm.weight, norm.bias, norm.eps)
        else:
            x = multiply_windows(images.to(dtype), conv.weight, conv.bias)
        normed: Tensor = self.act(norm(x))
        return normed

    def _is_one_operator(self, images: Tensor, dtype: torch.dtype) -> bool:
        """Whether there is a kernel for the first half, and its norm and GELU are what the kernel computes."""
        norm, act = self.norm1, self.act
        if not self.fused or not isinstance(norm, FusedLayerNorm) or norm.is_changed() or not norm.before_product:
            return False
        # The kernel has no gradient of the images.
        fixed = not (torch.is_grad_enabled() and images.requires_grad)
        plain = type(act) is GELU and not is_hooked(act) and images.dtype in (torch.float32, dtype)
        return fixed and plain and has_conv_norm_gelu_kernel(images, dtype, self.conv1.out_channels)


class Downsample(nn.Module):
    """The layers between two stages: conv 3×3 stride 2 · LN.

    Args:
        dim: number C of input channels.
        out_dim: number C' of output channels.
        bias: whether the convolution has a bias.
        norm_eps: epsilon of the norm.
    """

    RECOMPUTED_NORMS = ("norm",)  # as the second one of the stem

    def __init__(self, dim: int, out_dim: int, bias: bool, norm_eps: float) -> None:
        super().__init__()
        self.conv = _half(dim, out_dim, bias)
        self.norm = LayerNorm(out_dim, eps=norm_eps)

    def forward(
        self,
        x: Tensor,  # [B, H, W, C]
    ) -> Tensor:  # [B, ⌈H/2⌉, ⌈W/2⌉, C']
        """Halve the sides of the map, rounding up."""
        return self.norm(to_channels_last(self.conv(to_channels_first(x))))
