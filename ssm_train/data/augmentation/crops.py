"""timm's random crop, scaled with the numbers of Pillow in a fourth of its time."""

import functools
import random

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize as resize_by_pillow

from ssm_core import _ext

_INTERPOLATIONS = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
_MODES = ("L", "RGB")


@functools.cache
def has_resize() -> bool:
    """Whether the compiled library is there and has :func:`resize`."""
    return _ext.load() and bool(torch._C._jit_get_schemas_for_operator("ssm_train::resize"))


def resize(
    pixels: Tensor,  # [H, W, C] uint8
    size: tuple[int, int],
    cubic: bool,
) -> Tensor:  # [size, C] uint8
    """Scale an image as Pillow's ``resize`` does, bit for bit.

    torch scales bytes as fast, but its weights have 16 bits where Pillow's have 22. One value of 300 would differ by a
    level, and posterize, solarize and equalize enlarge that.

    Args:
        pixels: the image, of one or three channels.
        size: height and width of the result.
        cubic: whether to interpolate by cubic and not by linear functions.

    Raises:
        RuntimeError: the image or the size does not fit, or the compiled library is not there (:func:`has_resize`).
    """
    if not has_resize():
        raise RuntimeError(f"there is no compiled library that can resize images; {_ext.HOW_TO_BUILD}")
    result: Tensor = torch.ops.ssm_train.resize(pixels.contiguous(), *size, cubic)
    return result


def crop_as_timm(crop: RandomResizedCropAndInterpolation, image: Image.Image) -> Tensor:  # [crop.size, C] uint8
    """Compute timm's random crop of an image, from the random numbers that timm draws.

    Of an image of few pixels, timm may draw a crop of none, which it makes black. This is a crop of one pixel here.

    Args:
        crop: timm's transform.
        image: of any mode. Pillow scales all but L and RGB, and by all functions but cubic and linear ones.
    """
    top, left, height, width = crop.get_params(image, crop.scale, crop.ratio)
    chosen = crop.interpolation
    interpolation = random.choice(chosen) if isinstance(chosen, list | tuple) else chosen
    height, width = max(height, 1), max(width, 1)
    top, left = min(top, image.height - height), min(left, image.width - width)
    cropped = image.crop((left, top, left + width, top + height))
    if image.mode in _MODES and interpolation in _INTERPOLATIONS and has_resize():
        return resize(_to_tensor(cropped), crop.size, interpolation == InterpolationMode.BICUBIC)
    return _to_tensor(resize_by_pillow(cropped, crop.size, interpolation))


def _to_tensor(image: Image.Image) -> Tensor:  # [H, W, C] uint8
    return torch.from_numpy(np.array(image).reshape(image.height, image.width, -1))
