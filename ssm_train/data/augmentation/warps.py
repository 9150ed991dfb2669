"""Pillow's affine transforms for batches of images: the same places, taps, coefficients and rounding, in float64.

What lies outside of the image has the colour of the fill. Near the edge, taps outside of it have the nearest pixel.
"""

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
    count, channels, height, width = images.shape
    x, y = _centres(images)
    a, b, c, d, e, f = (matrices[:, place, None, None] for place in range(6))
    across, down = (a * x + b * y) + c, (d * x + e * y) + f  # [G, H, W]
    (left, x_part), (top, y_part) = _split(across), _split(down)
    rows = torch.stack([(top + step).clamp(0, height - 1) for step in _taps(cubic)], 1)
    columns = torch.stack([(left + step).clamp(0, width - 1) for step in _taps(cubic)], 1)
    places = rows[:, :, None] * width + columns[:, None]  # [G, taps, taps, H, W]
    flat = images.flatten(2).gather(2, places.view(count, 1, -1).expand(-1, channels, -1))
    taps = flat.view(count, channels, *places.shape[1:]).double()
    lines = _interpolate(taps.unbind(3), x_part[:, None, None])
    values = _interpolate(lines.unbind(2), y_part[:, None])
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
    start, part = _split(places)
    columns = [(start + step).clamp(0, width - 1)[:, None].expand_as(images) for step in _taps(cubic)]
    taps = [images.gather(3, column).double() for column in columns]
    inside = (places >= 0) & (places < width)
    return torch.where(inside[:, None], _to_bytes(_interpolate(taps, part[:, None])), fills[:, :, None, None])


def _centres(images: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the pixels' centres: x as a row [W], and y as a column [H, 1]."""
    height, width = images.shape[2:]
    x, y = (torch.arange(n, dtype=torch.float64, device=images.device) + 0.5 for n in (width, height))
    return x, y[:, None]


def _split(places: Tensor) -> tuple[Tensor, Tensor]:
    """The number of the pixel before every place, and how far the place is from its centre."""
    from_centre = places - 0.5
    before = from_centre.floor()
    return before.long(), from_centre - before


def _taps(cubic: bool) -> range:
    return range(-1, 3) if cubic else range(2)


def _interpolate(taps: list[Tensor] | tuple[Tensor, ...], part: Tensor) -> Tensor:
    """The value between two taps, or between the inner two of four: Keys' cubic with a = -1, as Pillow has it."""
    if len(taps) == 2:
        before, after = taps
        return before + (after - before) * part
    outer, before, after, last = taps
    slope = after - outer
    bend = 2 * (outer - before) + after - last
    twist = before - outer - after + last
    return before + part * (slope + part * (bend + part * twist))


def _to_bytes(values: Tensor) -> Tensor:
    return values.clamp(0, 255).byte()
