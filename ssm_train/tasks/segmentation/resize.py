"""Bilinear resizing with a gradient that is fast and the same in every run."""

import torch
import torch.nn.functional as F
from torch import Tensor


def bilinear_resize(
    x: Tensor,  # [B, C, h, w]
    size: tuple[int, int],
    align_corners: bool = False,
) -> Tensor:  # [B, C, H, W]
    """``F.interpolate(x, size, mode="bilinear")`` as two matrix products, one for each axis.

    On a GPU, torch's kernel adds up its gradient by atomics, in the type of ``x`` and in any order. If a map is
    enlarged four times, sixteen pixels add to the same place. Matrix products have neither problem. If no gradient is
    needed, torch's kernel is used.

    Args:
        x: feature maps, on any device.
        size: H and W of the result.
        align_corners: whether the centres of the corner pixels of input and output coincide, instead of the corners of
            the images.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if not (torch.is_grad_enabled() and x.requires_grad):
        return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
    batch, channels, h, w = x.shape
    height, width = size
    rows = _weights(h, height, align_corners, x.dtype, x.device)
    columns = _weights(w, width, align_corners, x.dtype, x.device)
    # Channels-last is faster if the channels fill whole vectors. A number of classes often does not.
    if x.is_contiguous() or channels % 8:
        wide = (x.reshape(-1, w) @ columns.T).view(batch * channels, h, width)
        return torch.bmm(rows.expand(batch * channels, height, h), wide).view(batch, channels, height, width)
    x = x.permute(0, 2, 3, 1)
    wide = torch.bmm(columns.expand(batch * h, width, w), x.reshape(batch * h, w, channels))
    high = torch.bmm(rows.expand(batch, height, h), wide.view(batch, h, width * channels))
    return high.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _weights(
    length: int, new_length: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:  # [new_length, length]
    """The matrix that resizes one axis. Its columns are what torch makes of the unit vectors."""
    # float64 only for float64 inputs, because some devices do not have it.
    units = torch.eye(length, dtype=torch.promote_types(dtype, torch.float32), device=device)
    return F.interpolate(units[None], new_length, mode="linear", align_corners=align_corners)[0].T.to(dtype)
