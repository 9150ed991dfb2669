"""Labelled images of one size in one array, of which whole batches are taken."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.collate import DRAWN_KEY, UNREADABLE_KEY
from ssm_train.data.datasets.base import ImageDataset, Transform
from ssm_train.data.datasets.idx import missing_file, read_idx
from ssm_train.data.transforms import BatchTransform
from ssm_train.registry import DATASETS


@DATASETS.register_module()
class ImageArrays(ImageDataset):
    """Images and labels in a file each: of NumPy (``.npy``), or in MNIST's format (``.gz``).

    Files of NumPy are mapped into memory, so that processes of a machine share them. With a :class:`.BatchTransform` a
    batch is one copy of pixels and some numbers. Other transforms are called for every image.

    Args:
        transform: see :class:`ImageDataset`.
        images: file of the images, [N, H, W] or [N, H, W, C] uint8.
        labels: file of the numbers of their classes, [N].
        classes: names of the classes.
        first: how many of the images are used, from the first on; None for all.

    Raises:
        ConfigError: ``first`` is more than there are, or see :class:`ImageDataset`.
        DataError: a file is missing, damaged or empty, or the labels do not belong to the images.
    """

    def __init__(
        self, transform: dict | Transform, images: str, labels: str, classes: list[str], first: int | None = None
    ):
        self.file = Path(images)
        self.images, numbers = _read(self.file, (3, 4)), _read(Path(labels), (1,))
        if self.images.dtype != np.uint8 or numbers.dtype.kind not in "iu":
            raise DataError(
                f"{images} and {labels} hold {self.images.dtype} and {numbers.dtype}: images are uint8, labels integers"
            )
        if len(numbers) != len(self.images) or not 0 <= numbers.min(initial=0) <= numbers.max(initial=0) < len(classes):
            raise DataError(
                f"{labels} does not belong to {self.file.name}: {len(numbers)} labels from {numbers.min(initial=0)} to "
                f"{numbers.max(initial=0)} for {len(self.images)} images of {len(classes)} classes"
            )
        if not self.images.size:
            raise DataError(f"{images} has no pixels: the shape of its array is {self.images.shape}")
        if first is not None and not 0 < first <= len(numbers):
            raise ConfigError(f"ImageArrays has {len(numbers)} images in {images}, and first={first}")
        super().__init__(numbers[:first].tolist(), classes, transform, unreadable="raise")

    def load(self, index: int) -> Image.Image | np.ndarray:
        """The image: in mode L or RGB if it has one or three channels, otherwise as an array [H, W, C]."""
        pixels = np.array(self.images[index])
        return pixels if pixels.ndim == 3 and pixels.shape[2] not in (1, 3) else Image.fromarray(pixels.squeeze())

    def name(self, index: int) -> str:
        """The file and the index of the image in it."""
        return f"{self.file}[{index}]"

    def load_batch(self, indices: Sequence[int]) -> Any:
        """The samples at some indices: a batch, as :func:`.collate_images` makes it, or a list of samples.

        Raises:
            ConfigError: the transform is for other images.
        """
        if not isinstance(self.transform, BatchTransform):
            return [self[index] for index in indices]
        pixels = torch.from_numpy(self.images[np.asarray(indices)])
        pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        if pixels.shape[1] != self.transform.channels:
            raise ConfigError(
                f"{self.file} has images of {pixels.shape[1]} channels, and the mean and std of their transform have "
                f"{self.transform.channels} numbers"
            )
        labels = torch.tensor([self.labels[index] for index in indices])
        samples = {"label": labels, "index": torch.tensor(indices), UNREADABLE_KEY: {}}
        return {"inputs": pixels, "data_samples": samples, DRAWN_KEY: self.transform.draw(len(indices))}


def _read(path: Path, dimensions: tuple[int, ...]) -> np.ndarray:
    """The array of a file, which has one of some numbers of dimensions."""
    if path.suffix == ".gz":
        return read_idx(path, dimensions[0])
    try:
        found = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise missing_file(path) from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no array of NumPy, or not all of it: {error}") from error
    if not isinstance(found, np.ndarray) or found.ndim not in dimensions:
        shape = getattr(found, "shape", "several arrays")
        raise DataError(f"{path} holds {shape}, and an array of {' or '.join(map(str, dimensions))} dimensions is due")
    return found
