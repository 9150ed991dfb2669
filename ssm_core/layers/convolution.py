"""The convolutions between images and tokens: stem and downsampling. Inside the blocks maps are channels-last."""

import torch
from timm.layers import LayerNorm
from torch import Tensor, nn


def to_channels_last(
    x: Tensor,  # [B, C, H, W]
) -> Tensor:
    """The map as ``[B, H, W, C]``; no copy when it is in the channels-last memory format already."""
    return x.permute(0, 2, 3, 1)


def to_channels_first(
    x: Tensor,  # [B, H, W, C]
) -> Tensor:
    """The map as ``[B, C, H, W]``, in the channels-last memory format: no copy."""
    return x.permute(0, 3, 1, 2)


def _half(channels: int, out_channels: int, bias: bool) -> nn.Conv2d:
    """A convolution that halves a map, rounding up."""
    return nn.Conv2d(channels, out_channels, kernel_size=3, stride=2, padding=1, bias=bias)


class Stem(nn.Module):
    """conv 3×3 stride 2 · LN · GELU · conv 3×3 stride 2 · LN: an image to a quarter of its size, rounded up.

    Args:
        in_chans: channels of the image.
        dim: channels C of the result; the first convolution has half of them.
        norm_eps: epsilon of the norms.
    """

    def __init__(self, in_chans: int, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.conv1 = _half(in_chans, dim // 2, bias=True)
        self.norm1 = LayerNorm(dim // 2, eps=norm_eps)
        self.act = nn.GELU()
        self.conv2 = _half(dim // 2, dim, bias=True)
        self.norm2 = LayerNorm(dim, eps=norm_eps)

    def forward(
        self,
        images: Tensor,  # [B, in_chans, H, W]
    ) -> Tensor:  # [B, ⌈H/4⌉, ⌈W/4⌉, C]
        """Embed the images; the result is channels-last."""
        # From here on every convolution finds, and leaves, the channels-last memory format.
        x = self.conv1(images.contiguous(memory_format=torch.channels_last))
        x = self.act(self.norm1(to_channels_last(x)))
        return self.norm2(to_channels_last(self.conv2(to_channels_first(x))))


class Downsample(nn.Module):
    """conv 3×3 stride 2 · LN between two stages.

    Args:
        dim: channels before.
        out_dim: channels after.
        bias: whether the convolution has a bias.
        norm_eps: epsilon of the norm.
    """

    def __init__(self, dim: int, out_dim: int, bias: bool, norm_eps: float) -> None:
        super().__init__()
        self.conv = _half(dim, out_dim, bias)
        self.norm = LayerNorm(out_dim, eps=norm_eps)

    def forward(
        self,
        x: Tensor,  # [B, H, W, C]
    ) -> Tensor:  # [B, ⌈H/2⌉, ⌈W/2⌉, C']
        """Halve the map, rounding up."""
        return self.norm(to_channels_last(self.conv(to_channels_first(x))))
