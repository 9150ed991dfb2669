"""How a model's images are scaled: read from its config or its checkpoint, applied, and undone for pictures."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from ssm_train.data.images import Mode

_SIDE = 224  # of the square images that most classifiers are tested on


class Preparation(NamedTuple):
    """How a model's images are scaled.

    Attributes:
        mean: of every channel, of values between 0 and 1.
        std: of every channel.
        side: of the images that the model is tested on, in pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int

    @property
    def grey(self) -> bool:
        """Whether the images have one channel."""
        return len(self.mean) == 1

    @property
    def mode(self) -> Mode:
        """Pillow's mode of the images."""
        return "L" if self.grey else "RGB"

    def inputs(
        self,
        image: np.ndarray,  # [H, W, 3] or [H, W], 0 … 1
    ) -> Tensor:  # [1, C, H, W]
        """The image as the model takes it."""
        pixels = torch.from_numpy(image).float().reshape(*image.shape[:2], -1).permute(2, 0, 1)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return ((pixels - mean) / std).unsqueeze(0).contiguous()

    def pixels(
        self,
        inputs: Tensor,  # [C, H, W]
    ) -> np.ndarray:  # [H, W, C] or [H, W] uint8
        """The picture of an input: the inverse of :meth:`inputs`, clipped."""
        mean, std = (torch.tensor(values, device=inputs.device).view(-1, 1, 1) for values in (self.mean, self.std))
        values = ((inputs.float() * std + mean).clip(0, 1) * 255).round().byte().permute(1, 2, 0)
        return values.squeeze(2).cpu().numpy() if values.shape[2] == 1 else values.cpu().numpy()


def of_transform(transform: Mapping[str, Any], channels: int = 3) -> Preparation:
    """What a classifier's transform does to images.

    Args:
        transform: its config. ``mean`` and ``std`` are ImageNet's and ``size`` is 224 unless it has them.
        channels: of the images, which decides how many of ImageNet's means are taken.
    """
    mean = tuple(transform.get("mean", IMAGENET_DEFAULT_MEAN[:channels]))
    std = tuple(transform.get("std", IMAGENET_DEFAULT_STD[:channels]))
    return Preparation(mean, std, transform.get("size", _SIDE))


def of_model(model: Mapping[str, Any], transform: Mapping[str, Any] | None) -> Preparation | None:
    """What a model's config says of its inputs; None if neither it nor the transform says anything.

    Detectors and segmentors say it in their ``data_preprocessor``, classifiers in the transform of their test images.

    Args:
        model: a whole model's config, or a backbone's.
        transform: config of the test transform, None where there is none.
    """
    inputs = model.get("data_preprocessor") or {}
    if "mean" in inputs and "std" in inputs:
        mean, std = (tuple(value / 255 for value in inputs[key]) for key in ("mean", "std"))
        return Preparation(mean, std, min(inputs.get("size") or (_SIDE,)))
    if transform is None:
        return None
    return of_transform(transform, model.get("backbone", model).get("in_chans", 3))


def of_config(cfg: Mapping[str, Any]) -> Preparation | None:
    """:func:`of_model` for a whole config, with the transform of its test data."""
    dataset = (cfg.get("test_dataloader") or cfg.get("val_dataloader") or {}).get("dataset", {})
    return of_model(cfg.get("model", {}), dataset.get("transform"))
