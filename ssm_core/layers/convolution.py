"""The stem and the downsampling, which turn images into token maps. Token maps inside the blocks are channels-last."""

from timm.layers import LayerNorm
from torch import Tensor, nn


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


class Stem(nn.Module):
    """Turns an image into a map whose sides are a quarter of the image's, rounded up.

    The layers are: conv 3×3 stride 2 · LN · GELU · conv 3×3 stride 2 · LN.

    Args:
        in_chans: number of channels of the image.
        dim: number C of channels of the result. The first convolution has half as many.
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
        """Embed the images. The result is channels-last."""
        # All convolutions of the network read and write the channels-last memory format from here on. torch.vmap cannot
        # ask for that format, but it can copy a view.
        x = self.conv1(to_channels_first(to_channels_last(images).contiguous()))
        x = self.act(self.norm1(to_channels_last(x)))
        return self.norm2(to_channels_last(self.conv2(to_channels_first(x))))


class Downsample(nn.Module):
    """The layers between two stages: conv 3×3 stride 2 · LN.

    Args:
        dim: number C of input channels.
        out_dim: number C' of output channels.
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
        """Halve the sides of the map, rounding up."""
        return self.norm(to_channels_last(self.conv(to_channels_first(x))))
