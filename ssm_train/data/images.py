"""The one way to read an image: which files are images, how they are turned, and what makes one unreadable."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ssm_core.backbone import MIN_SIDE
from ssm_core.errors import DataError

EXTENSIONS = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
# What decoders raise over a file that is no image. Pillow raises SyntaxError for broken PNGs, DecompressionBombError
# (a bare Exception) for absurd sizes; OpenCV has an error of its own, and mmcv asserts that an image was decoded.
UNREADABLE = (OSError, ValueError, SyntaxError, AssertionError, cv2.error, Image.DecompressionBombError)
Mode = Literal["RGB", "L"]
_END_OF_JPEG = b"\xff\xd9"
_LONGEST = 8  # the longer side of a scaled image is at most so many sides of the square of the same area


def decode(path: str | Path, mode: Mode = "RGB", max_megapixels: float | None = None) -> Image.Image:
    """Decode an image file, turned upright as its EXIF orientation says, eight bits a channel.

    Args:
        path: the file.
        mode: ``"RGB"`` for three channels, ``"L"`` for a grey one.
        max_megapixels: a larger image is refused before it is decoded.

    Raises:
        DataError: the image is too large.
        OSError: the file cannot be read, or raises another of :data:`UNREADABLE`.
    """
    with Image.open(path) as image:
        if max_megapixels is not None and image.width * image.height > max_megapixels * 1e6:
            size = f"{image.width} × {image.height} pixels"
            raise DataError(f"the image {Path(path).name} has {size}: at most {max_megapixels:g} megapixels are taken")
        ImageOps.exif_transpose(image, in_place=True)
        return _in_eight_bits(image).convert(mode)


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits by its upper eight, as OpenCV reads it. Pillow would clip it at 255."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if image.mode.startswith("I;16") else image


def read_image(
    path: str | Path, mode: Mode = "RGB", max_megapixels: float | None = None, title: str | None = None
) -> Image.Image:
    """:func:`decode` for a file that a user named.

    Args:
        path: see :func:`decode`.
        mode: see :func:`decode`.
        max_megapixels: see :func:`decode`.
        title: what an error calls the image; its path if left out.

    Raises:
        DataError: the image cannot be read, or it is too large.
    """
    try:
        return decode(path, mode, max_megapixels)
    except UNREADABLE as error:
        raise DataError(f"cannot read the image {title or path}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Why an image is unreadable, on one line and without the path, which some exceptions repeat."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def read_rgb(path: str | Path) -> np.ndarray:  # [H, W, 3] uint8
    """:func:`read_image` as an array."""
    return np.asarray(read_image(path))


def check_whole(path: str | os.PathLike) -> None:
    """Raise an ``OSError`` unless an image file is there, not empty and, if a JPEG, not cut off.

    OpenCV fills the missing part of a JPEG with grey and does not say so.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            raise OSError("the file is empty")
        file.seek(max(size - 2, 0))
        ending = file.read()
    # Some encoders write more after the end. Only decoding tells then.
    if path.suffix.lower() in (".jpg", ".jpeg") and ending != _END_OF_JPEG:
        with Image.open(path) as image:
            image.load()


def find_images(place: Path, extensions: Sequence[str] = EXTENSIONS) -> list[Path]:
    """The image at a place, or all images in and under a folder.

    Raises:
        DataError: there are none.
    """
    if place.is_file():
        return [place]
    found = sorted(p for p in place.rglob("*") if p.suffix.lower() in extensions) if place.is_dir() else []
    if not found:
        raise DataError(f"there is no image {place}, nor a folder of that name with images ({', '.join(extensions)})")
    return found


def to_area(
    image: Image.Image,
    side: int,
) -> np.ndarray:  # [H, W, 3], or [H, W] of a grey one; 0 … 1
    """The image scaled to the area of a square of this side, with its proportions kept."""
    scale = side / (image.width * image.height) ** 0.5
    width, height = (min(max(round(n * scale), MIN_SIDE), _LONGEST * side) for n in image.size)
    return to_array(image.resize((width, height), Image.Resampling.BICUBIC))


def to_square(
    image: Image.Image,
    side: int,
) -> np.ndarray:  # [H, W, 3], or [H, W] of a grey one; 0 … 1
    """The image's centre square, scaled to this side."""
    return to_array(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))


def to_array(image: Image.Image) -> np.ndarray:
    """Values between 0 and 1."""
    return np.asarray(image, dtype=np.float32) / 255
