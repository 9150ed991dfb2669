"""timm's image transforms with typed arguments, and the same for images of any number of channels."""

import logging
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torch import Tensor
from torchvision.transforms import v2

from ssm_core.errors import ConfigError
from ssm_train.data.augmentation import VIEW_KEY, Drawing, Unfinished, draw_views, drawing_of
from ssm_train.data.augmentation.policies import PolicyNotation
from ssm_train.data.pixels import LEVELS
from ssm_train.registry import TRANSFORMS

_COLOURS = (1, 3)  # numbers of channels that Pillow's images have; images with others are arrays


@TRANSFORMS.register_module()
class TrainTransform:
    """timm's training augmentation, followed by normalisation.

    Args:
        size: side of the square output in pixels.
        scale: smallest and largest share of the image's area that the random crop takes.
        ratio: smallest and largest aspect ratio of the crop.
        hflip: probability of a horizontal flip.
        color_jitter: strength of random changes of brightness, contrast and saturation. timm ignores it if
            ``auto_augment`` is set.
        auto_augment: policy in timm's notation, such as ``"rand-m9-mstd0.5-inc1"``; None for no policy.
        random_erasing: probability that a rectangle of the image is replaced by noise.
        interpolation: ``"bilinear"``, ``"bicubic"``, or ``"random"`` to choose one of the two for each image.
        mean: mean of every channel, which is subtracted. Images have as many channels.
        std: standard deviation of every channel, which the result is divided by.
        on_device: whether a loading process only crops and flips an image, and draws the numbers of the rest, which the
            model's :class:`.ImagePreprocessor` computes by the batch on the device of the training. The augmentation is
            the same, from the same random numbers. Images of two, four or more channels, AugMix and 3-Augment stay with
            the loading processes.

    Raises:
        ConfigError: ``mean`` and ``std`` differ in length, colours are to be changed of images that have none, or
            timm knows no such policy.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        color_jitter: float | None = None,
        auto_augment: Annotated[str, PolicyNotation()] | None = None,
        random_erasing: float = 0.0,
        interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic",
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
        on_device: bool = False,
    ):
        self.channels = _check_channels(mean, std)
        self.drawing: Drawing | None = None
        if self.channels not in _COLOURS:
            if auto_augment or color_jitter:
                raise ConfigError(
                    f"auto_augment and color_jitter change colours, and images of {self.channels} channels have none: "
                    "set both to None"
                )
            self.transform = v2.Compose(
                [
                    _to_planes,
                    RandomResizedCropAndInterpolation(size, tuple(scale), tuple(ratio), interpolation),
                    v2.RandomHorizontalFlip(hflip),
                    v2.Normalize(tuple(mean), tuple(std)),
                    RandomErasing(random_erasing, mode="pixel", device="cpu"),
                ]
            )
            return
        if auto_augment and (lacking := PolicyNotation().lacking(auto_augment)):
            raise ConfigError(f"auto_augment is {auto_augment!r}: it has to be {lacking}")
        self.transform = create_transform(
            size,
            is_training=True,
            scale=tuple(scale),
            ratio=tuple(ratio),
            hflip=hflip,
            color_jitter=color_jitter,
            auto_augment=auto_augment,
            interpolation=interpolation,
            re_prob=random_erasing,
            re_mode="pixel",
            mean=tuple(mean),
            std=tuple(std),
        )
        if on_device:
            self.drawing = drawing_of(self.transform, self.channels)
            if self.drawing is None:
                print_log(
                    f"the loading processes compute auto_augment={auto_augment!r} themselves: on_device cannot",
                    logger="current",
                    level=logging.WARNING,
                )

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor | Unfinished:
        """Transform one image, as :func:`.images.decode_channels` gives it, into a tensor [C, size, size].

        With ``on_device`` it is left :class:`.Unfinished`.

        Raises:
            ConfigError: the image has another number of channels than ``mean``.
        """
        image = _checked(image, self.channels)
        return self.transform(image) if self.drawing is None else self.drawing(image)


@TRANSFORMS.register_module()
class TestTransform:
    """Resize an image, crop its centre and normalise it.

    Args:
        size: side of the square output in pixels.
        crop_ratio: share of the resized image's side that the crop keeps: 0.875 resizes to 256 for a crop of 224.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        mean: mean of every channel, which is subtracted. Images have as many channels.
        std: standard deviation of every channel, which the result is divided by.

    Raises:
        ConfigError: ``mean`` and ``std`` differ in length.
    """

    __test__ = False  # without this pytest would collect the class as a test

    def __init__(
        self,
        size: int,
        crop_ratio: float = 0.875,
        interpolation: Literal["bilinear", "bicubic"] = "bicubic",
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
    ):
        self.channels = _check_channels(mean, std)
        if self.channels not in _COLOURS:
            mode = str_to_interp_mode(interpolation)
            self.transform = v2.Compose(
                [
                    _to_planes,
                    v2.Resize(math.floor(size / crop_ratio), mode, antialias=True),
                    v2.CenterCrop(size),
                    v2.Normalize(tuple(mean), tuple(std)),
                ]
            )
            return
        self.transform = create_transform(
            size, crop_pct=crop_ratio, interpolation=interpolation, mean=tuple(mean), std=tuple(std)
        )

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        """Transform one image, as :func:`.images.decode_channels` gives it, into a tensor [C, size, size].

        Raises:
            ConfigError: the image has another number of channels than ``mean``.
        """
        return self.transform(_checked(image, self.channels))


@TRANSFORMS.register_module()
class BatchTransform:
    """Random square crops and horizontal flips, drawn for a whole batch at once, and computed on the device.

    It is for small images in memory (:class:`.ImageArrays`), of which a loader would otherwise be slower than a small
    network. The model's :class:`.ImagePreprocessor` computes the pixels. Crops are resized by cubic interpolation
    without antialiasing, so that images should not be much larger than ``size``.

    Args:
        size: side of the square output in pixels.
        scale: smallest and largest share of the image's area that a crop has.
        hflip: probability of a horizontal flip.
        mean: mean of every channel, which is subtracted. Images have as many channels.
        std: standard deviation of every channel, which the result is divided by.

    Raises:
        ConfigError: ``mean`` and ``std`` differ in length, or ``scale`` is no range within 0 and 1.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.7, 1.0),
        hflip: float = 0.5,
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
    ):
        self.channels = _check_channels(mean, std)
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ConfigError(f"BatchTransform's scale is two shares of an area, such as (0.7, 1.0), not {scale}")
        self.size, self.scale, self.hflip = size, (scale[0], scale[1]), hflip
        self.mean, self.std = (np.asarray(values, np.float32) for values in (mean, std))

    def draw(self, count: int) -> dict[str, np.ndarray]:
        """Draw the numbers of a batch from NumPy's global generator, see :func:`.boxes.finish_views`.

        Args:
            count: number of images.
        """
        same = {"size": np.int64(self.size), "mean": self.mean, "std": self.std}
        repeated = {key: np.repeat(np.asarray(value)[None], count, axis=0) for key, value in same.items()}
        return {VIEW_KEY: draw_views(count, self.scale, self.hflip), **repeated}

    def __call__(self, image: Image.Image | np.ndarray) -> Unfinished:
        """Draw the numbers of one image, which is left :class:`.Unfinished`.

        Raises:
            ConfigError: the image has another number of channels than ``mean``.
        """
        pixels = np.array(_checked(image, self.channels))
        drawn = {key: value[0] for key, value in self.draw(1).items()}
        return Unfinished(torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1), drawn)


@TRANSFORMS.register_module()
class TestViews:
    """Several views of an image: its centre in several sizes, and each of them flipped.

    Args:
        size: side of the square views in pixels.
        crop_ratios: of every size the share of the resized image's side that is kept, see :class:`TestTransform`.
        flip: whether every view is also taken flipped horizontally.
        interpolation: see :class:`TestTransform`.
        mean: see :class:`TestTransform`.
        std: see :class:`TestTransform`.
    """

    __test__ = False  # without this pytest would collect the class as a test

    def __init__(
        self,
        size: int,
        crop_ratios: Sequence[float] = (0.875, 0.76),
        flip: bool = True,
        interpolation: Literal["bilinear", "bicubic"] = "bicubic",
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
    ):
        self.transforms = [TestTransform(size, ratio, interpolation, mean, std) for ratio in crop_ratios]
        self.flip = flip

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:  # [V, C, size, size]
        """Make the views of one image."""
        views = torch.stack([transform(image) for transform in self.transforms])
        return torch.cat([views, views.flip(-1)]) if self.flip else views


def _check_channels(mean: tuple[float, ...], std: tuple[float, ...]) -> int:
    """The number of channels that a transform is for."""
    if not len(mean) == len(std) > 0:
        raise ConfigError(f"a transform's mean and std have a number for each channel, not {len(mean)} and {len(std)}")
    return len(mean)


def _checked(image: Image.Image | np.ndarray, channels: int) -> Image.Image | np.ndarray:
    found = len(image.getbands()) if isinstance(image, Image.Image) else image.shape[2]
    if found != channels:
        raise ConfigError(
            f"an image has {found} channels, and the mean and std of its transform have {channels} numbers: set the "
            "dataset's channels to the number of means"
        )
    return image


def _to_planes(
    image: np.ndarray,  # [H, W, C], 0 … 255
) -> Tensor:  # [C, H, W] float32, 0 … 1
    return torch.from_numpy(image).permute(2, 0, 1).float() / LEVELS
