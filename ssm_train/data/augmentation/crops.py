"""timm's random crop, scaled with the numbers of Pillow in a fourth of its time."""

import functools
import random

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import InterpolationMode

from ssm_core import _ext


@functools.cache
def has_resize() -> bool:
    """Whether the compiled library is there and has :func:`resize`."""
    return _ext.defines(("ssm_train::resize",))


def resize(
    pixels: Tensor,  # [H, W, C] uint8
    size: tuple[int, int],
    cubic: bool,
) -> Tensor:  # [size, C] uint8
    """Scale an image as Pillow's ``resize`` does, bit for bit. It needs the compiled library.

    torch scales bytes as fast, but its weights have 16 bits where Pillow's have 22. One value of 300 would differ by a
    level, and posterize, solarize and equalize enlarge that.

    Args:
        pixels: the image, of one or three channels.
        size: height and width of the result.
        cubic: whether to interpolate by cubic and not by linear functions.

    Raises:
        RuntimeError: the image or the size does not fit.
    """
    result: Tensor = torch.ops.ssm_train.resize(pixels.contiguous(), *size, cubic)
    return result


def crop_as_timm(crop: RandomResizedCropAndInterpolation, image: Image.Image) -> Tensor:  # [crop.size, C] uint8
    """Compute timm's random crop of an image, from the random numbers that timm draws.

    Args:
        crop: timm's transform.
        image: in mode L or RGB.
    """
    if not has_resize():
        return _to_tensor(crop(image))
    top, left, height, width = crop.get_params(image, crop.scale, crop.ratio)
    chosen = crop.interpolation
    interpolation = random.choice(chosen) if isinstance(chosen, list | tuple) else chosen
    # Of an image of few pixels, timm may draw a crop of none.
    height, width = max(height, 1), max(width, 1)
    top, left = min(top, image.height - height), min(left, image.width - width)
    cropped = image.crop((left, top, left + width, top + height))
    return resize(_to_tensor(cropped), crop.size, interpolation == InterpolationMode.BICUBIC)


def _to_tensor(image: Image.Image) -> Tensor:  # [H, W, C] uint8
    return torch.from_numpy(np.array(image).reshape(image.height, image.width, -1))
