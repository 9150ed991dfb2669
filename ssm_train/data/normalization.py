"""How the images of a model are scaled. It is read from a config or a checkpoint, applied, and undone for pictures."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from ssm_train.data.images import to_picture

_SIDE = 224  # pixels; where nothing says otherwise, models are tested on squares of this side


class Normalization(NamedTuple):
    """How the images of a model are scaled.

    Attributes:
        mean: mean of every channel, for values between 0 and 1.
        std: standard deviation of every channel, for values between 0 and 1.
        side: side in pixels of the images that the model is tested on.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self.mean)

    def inputs(
        self,
        image: np.ndarray,  # [H, W, C] or [H, W], 0 … 1
    ) -> Tensor:  # [1, C, H, W]
        """Scale an image and make it a batch of one."""
        pixels = torch.from_numpy(image).float().reshape(*image.shape[:2], -1).permute(2, 0, 1)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return ((pixels - mean) / std).unsqueeze(0).contiguous()

    def pixels(
        self,
        inputs: Tensor,  # [C, H, W]
    ) -> np.ndarray:  # [H, W, 3] or [H, W] uint8
        """The picture of a model input: the inverse of :meth:`inputs`, clipped to the range of the pixels.

        Of images with two channels it shows the first, of those with more than three the first three.
        """
        mean, std = (torch.tensor(values, device=inputs.device).view(-1, 1, 1) for values in (self.mean, self.std))
        values = ((inputs.float() * std + mean).clip(0, 1) * 255).round().byte().permute(1, 2, 0)
        return np.asarray(to_picture(values.cpu().numpy()))


def of_transform(transform: Mapping[str, Any], channels: int = 3) -> Normalization:
    """How a test transform scales images.

    Args:
        transform: config of the transform. Without ``mean`` and ``std`` ImageNet's values are taken, and without
            ``size`` 224.
        channels: number of channels of the images. Of ImageNet's values, this many are taken.
    """
    mean = tuple(transform.get("mean", IMAGENET_DEFAULT_MEAN[:channels]))
    std = tuple(transform.get("std", IMAGENET_DEFAULT_STD[:channels]))
    return Normalization(mean, std, transform.get("size", _SIDE))


def of_model(model: Mapping[str, Any], transform: Mapping[str, Any] | None) -> Normalization | None:
    """How the config of a model says that its images are scaled.

    The ``data_preprocessor`` of the model says it, if it has ``mean`` and ``std`` (of values between 0 and 255). In all
    other models the transform of the test images says it.

    Args:
        model: config of a model or of a backbone.
        transform: config of the test transform, or None if there is none.

    Returns:
        The normalization, or None if neither of the two says anything.
    """
    inputs = model.get("data_preprocessor") or {}
    if "mean" in inputs and "std" in inputs:
        mean, std = (tuple(value / 255 for value in inputs[key]) for key in ("mean", "std"))
        return Normalization(mean, std, min(inputs.get("size") or (_SIDE,)))
    if transform is None:
        return None
    return of_transform(transform, model.get("backbone", model).get("in_chans", 3))


def of_config(cfg: Mapping[str, Any]) -> Normalization | None:
    """:func:`of_model` for the model of a config and the transform of its test data."""
    dataset = (cfg.get("test_dataloader") or cfg.get("val_dataloader") or {}).get("dataset", {})
    return of_model(cfg.get("model", {}), dataset.get("transform"))
