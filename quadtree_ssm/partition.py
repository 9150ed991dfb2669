"""Where the tokens of a map stand among its quadrants and windows. Pure index arithmetic, any sides, any device.

A side of length n is cut at ⌈n/2⌉, and each half once more in the same way; a shifted partition is laid over the map
rolled by the shift, as ``torch.roll(map, shift)`` would roll it.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class _Bands(NamedTuple):
    """The band that each place along one side lies in."""

    number: Tensor  # [n]
    start: Tensor  # [n], first place of the band
    size: Tensor  # [n], number of places in the band


def _bands(length: int, shift: int, count: Literal[2, 4], device: torch.device | None) -> _Bands:
    """Bands of a side in the shifted map, listed by the places of the unshifted one."""
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
    """The quadrant, 0 … 3 in raster order, of every token of a map.

    Args:
        height: rows H.
        width: columns W.
        shift: rows and columns by which the map is rolled under the partition.
        device: where to make the result.
    """
    rows, columns = (_bands(n, s, 2, device) for n, s in zip((height, width), shift, strict=True))
    return 2 * rows.number[:, None] + columns.number


def window_raster_slots(
    height: int, width: int, windows: Literal[2, 4], shift: tuple[int, int] = (0, 0), device: torch.device | None = None
) -> Tensor:  # [L]
    """The place of every token in the raster of windows × windows windows, each window row by row.

    With two windows a side this is the coarse order of the quadtree scan. With four it is the fine order of the
    released QuadMamba code, which differs from the nested order of the paper.

    Args:
        height: rows H.
        width: columns W.
        windows: windows a side.
        shift: rows and columns by which the map is rolled under the partition.
        device: where to make the result.
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
    """The exact mean of a map over each quadrant of the shifted partition; H and W at least 2.

    Args:
        values: the map, unshifted.
        shift: rows and columns by which the map is rolled under the partition.
    """
    if shift != (0, 0):
        values = torch.roll(values, shift, dims=(1, 2))
    top, left = (values.shape[1] + 1) // 2, (values.shape[2] + 1) // 2
    rows = (values[:, :top], values[:, top:])
    return torch.stack([q.mean((1, 2)) for r in rows for q in (r[:, :, :left], r[:, :, left:])], dim=1)
