"""Images of one shape, for networks that are compiled for a shape."""

import math
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import RandomCrop, Resize

from ssm_core.errors import ConfigError


class FixedSize(BaseTransform):
    """Gives every image the same height and width, in place of mmdet's ``Resize``, with its boxes and masks.

    Compiled networks and CUDA graphs then see one shape alone. The aspect ratio stays. An image is resized to fit into
    the shape and its right and bottom are filled (a letterbox), or with ``crop`` it is resized to cover the shape and a
    random part of it is taken. A test needs the letterbox, since a crop loses objects.

    ``img_shape`` is the shape without the filling. So boxes end there, and detectors with attention look at nothing
    else.

    Args:
        size: height and width in pixels. Multiples of 32 need no more padding by the model.
        crop: whether a random part of the image is taken.
        fill: value of the filling, from 0 to 255.

    Raises:
        ConfigError: ``size`` is not two whole numbers of one or more, or ``fill`` is no value of a pixel.
    """

    def __init__(self, size: tuple[int, int], crop: bool = False, fill: float = 114.0):
        if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
            raise ConfigError(f"FixedSize's size is a height and a width of 1 pixel or more, not {size!r}")
        if type(fill) not in (int, float) or not 0 <= fill <= 255:
            raise ConfigError(f"FixedSize's fill is a number from 0 to 255, not {fill!r}")
        self.height, self.width = size
        self.crop = crop
        self.fill = fill

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resize a sample of mmdet's kind, and crop or fill it."""
        height, width = results["img"].shape[:2]
        ratios = self.height / height, self.width / width
        if self.crop:
            wanted = math.ceil(height * max(ratios)), math.ceil(width * max(ratios))
        else:
            wanted = max(round(height * min(ratios)), 1), max(round(width * min(ratios)), 1)
        # Rounding must neither leave a gap nor go beyond the shape.
        limit = max if self.crop else min
        new_height, new_width = limit(wanted[0], self.height), limit(wanted[1], self.width)
        results = Resize(scale=(new_width, new_height), keep_ratio=False)(results)
        if self.crop:
            return RandomCrop((self.width, self.height), allow_negative_crop=True)(results)
        image = results["img"]
        filled = np.full((self.height, self.width, *image.shape[2:]), self.fill, dtype=image.dtype)
        filled[:new_height, :new_width] = image
        results["img"] = filled
        results["pad_shape"] = filled.shape[:2]
        if results.get("gt_masks") is not None:
            results["gt_masks"] = results["gt_masks"].pad((self.height, self.width))
        return results
