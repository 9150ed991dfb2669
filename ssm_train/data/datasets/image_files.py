"""What datasets of encoded images have in common, wherever the images are."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from ssm_core.errors import ConfigError
from ssm_train.data.datasets.base import ImageDataset, Transform
from ssm_train.data.datasets.folds import Fold, in_fold
from ssm_train.data.images import Mode, decode_channels
from ssm_train.data.pixels import ImageBytes, check_range

_CHANNELS: dict[str, int] = {"RGB": 3, "L": 1}


class EncodedImages(ImageDataset):
    """A list of labelled images that are encoded as in a file.

    Args:
        labels: see :class:`ImageDataset`.
        classes: names of the classes.
        transform: see :class:`ImageDataset`.
        mode: see :class:`.ImageFolder`.
        unreadable: see :class:`ImageDataset`.
        channels: see :class:`.ImageFolder`.
        value_range: see :class:`.ImageFolder`.
        fold: the part of the images to use, see :func:`.in_fold`; None uses all.

    Attributes:
        chosen: the places in the whole list of the images of this fold.

    Raises:
        ConfigError: ``mode``, ``channels``, ``value_range`` or ``fold`` is wrong.
    """

    def __init__(
        self,
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
            raise ConfigError(
                f"a dataset's mode is {' or '.join(map(repr, _CHANNELS))}, not {mode!r}: "
                "channels is for images of other numbers, such as channels=4 for RGBA"
            )
        self.mode = mode
        self.channels = _CHANNELS[mode] if channels is None else channels
        if type(self.channels) is not int or self.channels < 1:
            raise ConfigError(f"a dataset's channels are a number of 1 or more, not {channels!r}")
        self.value_range = None if value_range is None else check_range(value_range)
        self.chosen = in_fold(labels, fold)
        super().__init__([labels[place] for place in self.chosen], classes, transform, unreadable)

    @abstractmethod
    def source(self, index: int) -> str | ImageBytes:
        """The file of an image, or its content.

        Raises:
            OSError: it cannot be read; any other of :data:`~ssm_train.data.images.UNREADABLE` says the same.
        """

    def load(self, index: int) -> Image.Image | np.ndarray:
        """Decode the image and turn it upright."""
        return decode_channels(self.source(index), self.channels, self.value_range)


class ImageFiles(EncodedImages):
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
        fold: see :class:`EncodedImages`.

    Raises:
        ConfigError: see :class:`EncodedImages`.
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
        super().__init__(labels, classes, transform, mode, unreadable, channels, value_range, fold)
        self.paths = [paths[place] for place in self.chosen]

    def source(self, index: int) -> str:
        """The path of the file."""
        return self.paths[index]

    def name(self, index: int) -> str:
        """The path of the file."""
        return self.paths[index]
