"""Random erasing: rectangles of noise, which follows from a key for every image."""

import torch
from torch import Tensor

_ODD = 0x45D9F3B  # below 2**27, so that products with 32 bits fit into int64
_BITS = 0xFFFFFFFF


def erase(
    images: Tensor,  # [G, C, H, W] float32
    rectangles: Tensor,  # [G, 4] int64: top, left, height, width
    keys: Tensor,  # [G] int64
) -> Tensor:  # [G, C, H, W] float32
    """Replace a rectangle of every image by noise."""
    height, width = images.shape[2:]
    y, x = (torch.arange(n, device=images.device) for n in (height, width))
    top, left, rows, columns = rectangles[:, :, None].unbind(1)
    inside = ((y >= top) & (y < top + rows))[:, :, None] & ((x >= left) & (x < left + columns))[:, None]
    return torch.where(inside[:, None], noise(images, keys), images)


def noise(
    images: Tensor,  # [G, C, H, W], for its shape
    keys: Tensor,  # [G] int64, 0 … 2**32 - 1
) -> Tensor:  # [G, C, H, W] float32
    """Numbers of the normal distribution, each of which is a function of the key and of its place in the image.

    A generator of torch would give others on another device, and for another order of the images.
    """
    places = torch.arange(images[0].numel(), device=images.device)
    bits = _mix(_mix(places + 1) ^ keys[:, None])
    # 24 bits, all that float32 holds between -1 and 1; never an end, where the normal distribution is infinite.
    uniform = ((bits >> 8) * 2 + (1 - (1 << 24))).float() / (1 << 24)
    return (uniform.erfinv() * 2**0.5).view(-1, *images.shape[1:])


def _mix(bits: Tensor) -> Tensor:  # int64, 0 … 2**32 - 1
    """Change about half of the bits of the result for every bit that changes, as a hash does."""
    for _ in range(2):
        bits = ((bits ^ (bits >> 16)) * _ODD) & _BITS
    return bits ^ (bits >> 16)
