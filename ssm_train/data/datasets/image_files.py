"""What datasets of image files have in common."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from ssm_core.errors import ConfigError
from ssm_train.data.datasets.base import ImageDataset, Transform
from ssm_train.data.datasets.folds import Fold, in_fold
from ssm_train.data.images import Mode, decode_channels
from ssm_train.data.pixels import check_range

_CHANNELS: dict[str, int] = {"RGB": 3, "L": 1}


class ImageFiles(ImageDataset):
    """A list of labelled image files.

    Args:
        paths: the files.
        labels: see :class:`ImageDataset`.
        classes: names of the classes.
        transform: see :class:`ImageDataset`.
        mode: see :class:`.ImageFolder`.
        unreadable: see :class:`ImageDataset`.
        channels: see :class:`.ImageFolder`.
        value_range: see :class:`.ImageFolder`.
        fold: the part of the images to use, see :func:`.in_fold`; None uses all.

    Raises:
        ConfigError: ``mode``, ``channels``, ``value_range`` or ``fold`` is wrong.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: list[int] | list[list[int]],
        classes: list[str],
        transform: dict | Transform,
        mode: Mode = "RGB",
        unreadable: Literal["skip", "raise"] = "skip",
        channels: int | None = None,
        value_range: Sequence[float] | None = None,
        fold: Fold | None = None,
    ):
        if mode not in _CHANNELS:
            raise ConfigError(f"a dataset's mode is {' or '.join(map(repr, _CHANNELS))}, not {mode!r}")
        self.mode = mode
        self.channels = _CHANNELS[mode] if channels is None else channels
        if type(self.channels) is not int or self.channels < 1:
            raise ConfigError(f"a dataset's channels are a number of 1 or more, not {channels!r}")
        self.value_range = None if value_range is None else check_range(value_range)
        chosen = in_fold(labels, fold)
        self.paths = [paths[index] for index in chosen]
        super().__init__([labels[index] for index in chosen], classes, transform, unreadable)

    def load(self, index: int) -> Image.Image | np.ndarray:
        """Decode the file and turn the image upright."""
        return decode_channels(self.paths[index], self.channels, self.value_range)

    def name(self, index: int) -> str:
        """The path of the file."""
        return self.paths[index]
