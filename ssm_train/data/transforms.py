"""timm's image transforms with typed arguments."""

from typing import Literal

from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch import Tensor

from ssm_train.registry import TRANSFORMS


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
        mean: mean of every channel, which is subtracted.
        std: standard deviation of every channel, which the result is divided by.
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
    """Resize an image, crop its centre and normalise it.

    Args:
        size: side of the square output in pixels.
        crop_ratio: share of the resized image's side that the crop keeps: 0.875 resizes to 256 for a crop of 224.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        mean: mean of every channel, which is subtracted.
        std: standard deviation of every channel, which the result is divided by.
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
        self.transform = create_transform(
            size, crop_pct=crop_ratio, interpolation=interpolation, mean=tuple(mean), std=tuple(std)
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image into a tensor [C, size, size]."""
        return self.transform(image)
