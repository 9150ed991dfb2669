"""Computes the quadrant, the window and the place of each token of a map.

The functions work for maps of any size and on any device. They only compute indices.

A side of length n is cut at ⌈n/2⌉, and each half is cut once more in the same way. A shifted partition divides the
rolled map ``torch.roll(map, shift)``.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class _Bands(NamedTuple):
    """The band that contains each place along one side of the map."""

    number: Tensor  # [n]
    start: Tensor  # [n], first place of the band
    size: Tensor  # [n], number of places in the band


def _bands(length: int, shift: int, count: Literal[2, 4], device: torch.device | None) -> _Bands:
    """Return the bands of a side of the shifted map, in the order of the places in the unshifted map."""
    place = (torch.arange(length, device=device) + shift) % length
    half = (length + 1) // 2
    low = place < half
    index, start, size = (~low).long(), torch.where(low, 0, half), torch.where(low, half, length - half)
    if count == 4:
        cut = (size + 1) // 2
        first = place < start + cut
        index = 2 * index + (~first).long()
        start, size = torch.where(first, start, start + cut), torch.where(first, cut, size - cut)
    return _Bands(index, start, size)


def quadrant_of_tokens(
    height: int, width: int, shift: tuple[int, int] = (0, 0), device: torch.device | None = None
) -> Tensor:  # [H, W]
    """Return the number of the quadrant of every token of a map: 0 … 3 in raster order.

    Args:
        height: number H of rows.
        width: number W of columns.
        shift: numbers of rows and columns by which the map is rolled before it is divided.
        device: the device of the result.
    """
    rows, columns = (_bands(n, s, 2, device) for n, s in zip((height, width), shift, strict=True))
    return 2 * rows.number[:, None] + columns.number


def window_raster_slots(
    height: int, width: int, windows: Literal[2, 4], shift: tuple[int, int] = (0, 0), device: torch.device | None = None
) -> Tensor:  # [L]
    """Return the place of every token in a sequence that visits the windows in raster order, each window row by row.

    With two windows per side this is the coarse order of the quadtree scan. With four windows per side it is the fine
    order of the released QuadMamba code, which differs from the nested order of the paper.

    Args:
        height: number H of rows.
        width: number W of columns.
        windows: number of windows per side.
        shift: numbers of rows and columns by which the map is rolled before it is divided.
        device: the device of the result.
    """
    rows, columns = (_bands(n, s, windows, device) for n, s in zip((height, width), shift, strict=True))
    row = ((torch.arange(height, device=device) + shift[0]) % height - rows.start)[:, None]
    column = (torch.arange(width, device=device) + shift[1]) % width - columns.start
    above = rows.start[:, None] * width
    left = rows.size[:, None] * columns.start
    return (above + left + row * columns.size + column).flatten()


def quadrant_means(
    values: Tensor,  # [B, H, W]
    shift: tuple[int, int] = (0, 0),
) -> Tensor:  # [B, 4]
    """Return the exact mean of a map over each quadrant of the shifted map. H and W must be at least 2.

    Args:
        values: the unshifted map.
        shift: numbers of rows and columns by which the map is rolled before it is divided.
    """
    if shift != (0, 0):
        values = torch.roll(values, shift, dims=(1, 2))
    top, left = (values.shape[1] + 1) // 2, (values.shape[2] + 1) // 2
    rows = (values[:, :top], values[:, top:])
    return torch.stack([q.mean((1, 2)) for r in rows for q in (r[:, :, :left], r[:, :, left:])], dim=1)
