"""Pillow's affine transforms for batches of images: the same places, taps, coefficients and rounding, in float64.

What lies outside of the image has the colour of the fill. Near the edge, taps outside of it have the nearest pixel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def slide_x(
    images: Tensor,  # [G, C, H, W] uint8
    matrices: Tensor,  # [G, 6] float64
    fills: Tensor,  # [G, C] uint8
    cubic: bool,
) -> Tensor:  # [G, C, H, W] uint8
    """Move every row to the left or right: a shear or a translation.

    Args:
        images: the images.
        matrices: of every image the matrix (1, b, c, 0, 1, 0), see :data:`.drawing.Matrix`.
        fills: colour of what comes in from outside.
        cubic: whether the interpolation is cubic and not linear.
    """
    return _slide(images, matrices[:, 1], matrices[:, 2], fills, cubic)


def slide_y(
    images: Tensor,  # [G, C, H, W] uint8
    matrices: Tensor,  # [G, 6] float64
    fills: Tensor,  # [G, C] uint8
    cubic: bool,
) -> Tensor:  # [G, C, H, W] uint8
    """Move every column up or down, by the matrix (1, 0, 0, d, 1, f); see :func:`slide_x`."""
    return _slide(images.mT.contiguous(), matrices[:, 3], matrices[:, 5], fills, cubic).mT


def rotate(
    images: Tensor,  # [G, C, H, W] uint8
    matrices: Tensor,  # [G, 6] float64
    fills: Tensor,  # [G, C] uint8
    cubic: bool,
) -> Tensor:  # [G, C, H, W] uint8
    """Apply any affine transform; see :func:`slide_x`."""
    channels, height, width = images.shape[1:]
    x, y = _centres(images)
    a, b, c, d, e, f = matrices[:, :, None, None].unbind(1)
    across, down = (a * x + b * y) + c, (d * x + e * y) + f  # [G, H, W]
    (columns, x_part), (rows, y_part) = _taps(across, width, cubic), _taps(down, height, cubic)
    lines = []
    for row in rows.unbind(1):  # all rows of taps at once would take four times the memory
        places = (row[:, None] * width + columns).flatten(1)  # [G, taps · H · W]
        taps = images.flatten(2).gather(2, places[:, None].expand(-1, channels, -1)).double()
        lines.append(_interpolate(taps.unflatten(2, (-1, height, width)).unbind(2), x_part[:, None]))
    values = _interpolate(lines, y_part[:, None])
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    return torch.where(inside[:, None], _to_bytes(values), fills[:, :, None, None])


def _slide(
    images: Tensor,  # [G, C, H, W] uint8
    shears: Tensor,  # [G] float64
    shifts: Tensor,  # [G] float64, pixels
    fills: Tensor,  # [G, C] uint8
    cubic: bool,
) -> Tensor:  # [G, C, H, W] uint8
    x, y = _centres(images)
    width = images.shape[3]
    places = (x + shears[:, None, None] * y) + shifts[:, None, None]  # [G, H, W]
    columns, part = _taps(places, width, cubic)
    columns = columns.transpose(1, 2).flatten(2)  # [G, H, taps · W]
    taps = images.gather(3, columns[:, None].expand(-1, images.shape[1], -1, -1)).double()
    values = _interpolate(taps.unflatten(3, (-1, width)).unbind(3), part[:, None])
    inside = (places >= 0) & (places < width)
    return torch.where(inside[:, None], _to_bytes(values), fills[:, :, None, None])


def _centres(images: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the pixels' centres: x as a row [W], and y as a column [H, 1]."""
    height, width = images.shape[2:]
    x, y = (torch.arange(n, dtype=torch.float64, device=images.device) + 0.5 for n in (width, height))
    return x, y[:, None]


def _taps(places: Tensor, length: int, cubic: bool) -> tuple[Tensor, Tensor]:
    """The pixels that a place takes its value from, and how far it is from the centre of the last one before it.

    Args:
        places: [G, H, W], along one side of the image.
        length: of that side.
        cubic: whether there are four of them, and not two.

    Returns:
        The numbers of the pixels [G, taps, H, W], and the distances [G, H, W].
    """
    from_centre = places - 0.5
    before = from_centre.floor()
    steps = torch.arange(-1, 3, device=places.device) if cubic else torch.arange(2, device=places.device)
    numbers = before.long()[:, None] + steps[:, None, None]
    return numbers.clamp(0, length - 1), from_centre - before


def _interpolate(taps: Sequence[Tensor], part: Tensor) -> Tensor:
    """The value between two taps, or between the inner two of four: Keys' cubic with a = -1, as Pillow has it.

    Products and sums stay apart. Fused ones, as of ``torch.addcmul``, would round once less than Pillow does.
    """
    if len(taps) == 2:
        before, after = taps
        return before + (after - before) * part
    outer, before, after, last = taps
    rise, fall = outer - before, after - last
    both = rise + fall
    return before + part * (after - outer + part * (both + rise - part * both))


def _to_bytes(values: Tensor) -> Tensor:
    return values.clamp(0, 255).byte()
