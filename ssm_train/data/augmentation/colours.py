"""Pillow's operations on values, for batches of images: tables, blends and the histogram. All of them are exact.

Pillow computes blends in float32, tables in float64, and drops the fraction of a result. So do these functions, with
the same operations in the same order.
"""

import torch
from torch import Tensor

_LUMA = (19595, 38470, 7471)  # Pillow's weights of red, green and blue, in 65536ths


def look_up(
    images: Tensor,  # [G, C, H, W] uint8
    tables: Tensor,  # [G, C or 1, 256] uint8
) -> Tensor:  # [G, C, H, W] uint8
    """Replace every value by that of a table."""
    tables = tables.expand(-1, images.shape[1], -1)
    return tables.gather(2, images.flatten(2).long()).view_as(images)


def apply_table(
    images: Tensor,  # [G, C, H, W] uint8
    tables: Tensor,  # [G, 256] uint8
) -> Tensor:  # [G, C, H, W] uint8
    """Replace every value by that of a table, the same for all channels."""
    return look_up(images, tables.unsqueeze(1))


def auto_contrast(
    images: Tensor,  # [G, C, H, W] uint8
) -> Tensor:  # [G, C, H, W] uint8
    """Stretch every channel so that its least value becomes 0 and its greatest 255."""
    low, high = (end.double().unsqueeze(2) for end in (images.amin((2, 3)), images.amax((2, 3))))
    values = _all_values(images).double()
    scale = torch.full_like(low, 255) / (high - low).clamp_min(1)  # `255 / tensor` would multiply by a reciprocal
    tables = (values * scale + -low * scale).clamp(0, 255)
    return look_up(images, torch.where(high > low, tables, values).byte())


def equalize(
    images: Tensor,  # [G, C, H, W] uint8
) -> Tensor:  # [G, C, H, W] uint8
    """Spread the values of every channel so that about as many pixels have each of them.

    The histogram is read off the sorted values: counting by additions at random places is slow on a GPU where most
    pixels are alike.
    """
    ordered = images.flatten(2).sort(2).values
    values = _all_values(images)
    until = torch.searchsorted(ordered, values.expand(*ordered.shape[:2], -1).contiguous(), right=True)
    before = torch.cat([torch.zeros_like(until[..., :1]), until[..., :-1]], 2)  # number of pixels of smaller values
    step = (ordered < ordered[..., -1:]).sum(2, keepdim=True) // 255
    tables = ((step // 2 + before) // step.clamp_min(1)).clamp_max(255)
    return look_up(images, torch.where(step > 0, tables, values).byte())


def contrast(
    images: Tensor,  # [G, C, H, W] uint8
    factors: Tensor,  # [G] float32
) -> Tensor:  # [G, C, H, W] uint8
    """Blend every image with its mean grey."""
    greys = _greys(images).flatten(1)
    means = (greys.sum(1).double() / greys.shape[1] + 0.5).floor().float()
    tables = _blend(means[:, None], _all_values(images).float(), factors[:, None])
    return apply_table(images, tables)


def colour(
    images: Tensor,  # [G, C, H, W] uint8
    factors: Tensor,  # [G] float32
) -> Tensor:  # [G, C, H, W] uint8
    """Blend every image with its grey picture."""
    return _blend(_greys(images).unsqueeze(1).float(), images.float(), factors[:, None, None, None])


def sharpness(
    images: Tensor,  # [G, C, H, W] uint8
    factors: Tensor,  # [G] float32
) -> Tensor:  # [G, C, H, W] uint8
    """Blend every image with a smoothed one. The outermost pixels are not smoothed."""
    smooth = images.int()
    if min(images.shape[2:]) > 2:
        rows = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
        sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * smooth[:, :, 1:-1, 1:-1]
        smooth[:, :, 1:-1, 1:-1] = (2 * sums + 13) // 26  # the weights add up to 13; this rounds
    return _blend(smooth.float(), images.float(), factors[:, None, None, None])


def _blend(first: Tensor, second: Tensor, factors: Tensor) -> Tensor:  # uint8
    """Pillow's ``Image.blend``: factor 0 is the first, 1 the second, and others go beyond."""
    return (first + factors * (second - first)).clamp(0, 255).byte()


def _greys(
    images: Tensor,  # [G, 1 or 3, H, W] uint8
) -> Tensor:  # [G, H, W] int32
    if images.shape[1] == 1:
        return images[:, 0].int()
    red, green, blue = (channel * weight for channel, weight in zip(images.int().unbind(1), _LUMA, strict=True))
    return (red + green + blue + (1 << 15)) >> 16


def _all_values(images: Tensor) -> Tensor:  # [256] uint8
    return torch.arange(256, dtype=torch.uint8, device=images.device)
