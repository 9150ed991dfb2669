"""Image transforms: timm's, under typed arguments."""

from typing import Literal

from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch import Tensor

from ssm_train.registry import TRANSFORMS


@TRANSFORMS.register_module()
class TrainTransform:
    """timm's training augmentation, then a normalised tensor.

    Args:
        size: side of the square output in pixels.
        scale: share of the image's area that the random crop takes, smallest and largest.
        ratio: aspect ratio of the crop, smallest and largest.
        hflip: probability of a horizontal flip.
        color_jitter: strength of brightness, contrast and saturation changes; timm drops it under ``auto_augment``.
        auto_augment: timm's policy string, such as ``"rand-m9-mstd0.5-inc1"``.
        random_erasing: probability of replacing a rectangle by noise.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"random"`` of the two.
        mean: of every channel, subtracted.
        std: of every channel, divided by.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        color_jitter: float | None = None,
        auto_augment: str | None = None,
        random_erasing: float = 0.0,
        interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic",
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
    ):
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

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image into a tensor [C, size, size]."""
        return self.transform(image)


@TRANSFORMS.register_module()
class TestTransform:
    """Resize, crop the centre, normalise.

    Args:
        size: side of the square output in pixels.
        crop_ratio: share of the resized image's side that the crop keeps: 0.875 resizes to 256 for a crop of 224.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        mean: of every channel, subtracted.
        std: of every channel, divided by.
    """

    __test__ = False  # pytest would collect it

    def __init__(
        self,
        size: int,
        crop_ratio: float = 0.875,
        interpolation: Literal["bilinear", "bicubic"] = "bicubic",
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
    ):
        self.transform = create_transform(
            size, crop_pct=crop_ratio, interpolation=interpolation, mean=tuple(mean), std=tuple(std)
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image into a tensor [C, size, size]."""
        return self.transform(image)
