"""How the images of a model are scaled. It is read from a config or a checkpoint, applied, and undone for pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from ssm_train.data.images import read_channels
from ssm_train.data.pixels import ValueRange, check_range
from ssm_train.data.shown import Bands, check_bands, stretched, to_picture
from ssm_train.data.wrapper import bare_datasets
from ssm_train.runtime.building import trained_part

_SIDE = 224  # pixels; where nothing says otherwise, models are tested on squares of this side


class Normalization(NamedTuple):
    """How the images of a model are scaled.

    Attributes:
        mean: mean of every channel, for values between 0 and 1.
        std: standard deviation of every channel, for values between 0 and 1.
        side: side in pixels of the images that the model is tested on.
        value_range: the values of black and white in its images, see :func:`.pixels.to_levels`; None for those of the
            type of the values.
        bands: the channels that pictures show, see :func:`.shown.to_picture`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int
    value_range: ValueRange | None = None
    bands: Bands | None = None

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self.mean)

    def read(
        self, path: str | Path, max_megapixels: float | None = None, title: str | None = None
    ) -> Image.Image | np.ndarray:
        """Read an image file that a user named as training read its images.

        Args:
            path: the file.
            max_megapixels: see :func:`.images.read_channels`.
            title: see :func:`.images.read_channels`.

        Raises:
            DataError: the image cannot be read, is too large, or has another number of channels.
        """
        return read_channels(path, self.channels, self.value_range, max_megapixels, title)

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
        """The picture of a model input: the inverse of :meth:`inputs`, clipped to the range of the pixels."""
        mean, std = (torch.tensor(values, device=inputs.device).view(-1, 1, 1) for values in (self.mean, self.std))
        values = ((inputs.float() * std + mean).clip(0, 1) * 255).round().byte().permute(1, 2, 0)
        return np.asarray(to_picture(values.cpu().numpy(), self.bands))


def picture_of(
    inputs: Tensor,  # [C, H, W]
    normalization: Normalization | None,
    bands: Bands | None,
) -> np.ndarray:  # [H, W, 3] or [H, W] uint8
    """The picture of a model input. If nothing says how it was scaled, its lowest value is black and its highest white.

    Args:
        inputs: an image that a model is given.
        normalization: how the images of the model are scaled, or None if it is not known.
        bands: see :class:`Normalization`.
    """
    if normalization is not None and normalization.channels == len(inputs):
        return normalization._replace(bands=bands).pixels(inputs)
    return np.asarray(to_picture(stretched(inputs.float().permute(1, 2, 0).cpu().numpy()), bands))


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


def of_model(
    model: Mapping[str, Any], transform: Mapping[str, Any] | None, value_range: Sequence[float] | None = None
) -> Normalization | None:
    """How the config of a model says that its images are scaled.

    The ``data_preprocessor`` of the model says it, if it has ``mean`` and ``std`` (of values between 0 and 255). In all
    other models the transform of the test images says it.

    Args:
        model: config of a model or of a backbone.
        transform: config of the test transform, or None if there is none.
        value_range: see :class:`Normalization`.

    Returns:
        The normalization, or None if neither of the two says anything.

    Raises:
        ConfigError: ``value_range`` is no range.
    """
    limits = None if value_range is None else check_range(value_range)
    inputs = model.get("data_preprocessor") or {}
    if inputs.get("mean") is not None and inputs.get("std") is not None:
        mean, std = (tuple(value / 255 for value in inputs[key]) for key in ("mean", "std"))
        return Normalization(mean, std, min(inputs.get("size") or (_SIDE,)), limits)
    if transform is None:
        return None
    found = of_transform(transform, model.get("backbone", model).get("in_chans", 3))
    return found._replace(value_range=limits)


def test_data_of(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the test data, or else of the validation data, without wrappers; empty if there are none.

    Of several datasets in a wrapper, it is the config of the first.
    """
    return bare_datasets((cfg.get("test_dataloader") or cfg.get("val_dataloader") or {}).get("dataset", {}))[0]


test_data_of.__test__ = False  # pytest would collect it


def value_range_of(dataset: Mapping[str, Any]) -> Sequence[float] | None:
    """The values of black and white that the config of a dataset gives, itself or in a step of its pipeline."""
    steps = [step for step in dataset.get("pipeline") or () if isinstance(step, Mapping)]
    return next((part["value_range"] for part in (dataset, *steps) if part.get("value_range")), None)


def of_config(cfg: Mapping[str, Any]) -> Normalization | None:
    """:func:`of_model` for the model of a config and the transform of its test data.

    Raises:
        ConfigError: ``value_range`` is no range, or ``visualizer.bands`` are no channels.
    """
    dataset = test_data_of(cfg)
    found = of_model(trained_part(cfg.get("model", {})), dataset.get("transform"), value_range_of(dataset))
    bands = (cfg.get("visualizer") or {}).get("bands")
    return found and found._replace(bands=check_bands(bands, found.channels))
