"""The one way to read an image: which files are images, how images are turned, and which are unreadable.

Classification, drawing, export and the explorer read through this module. The networks of detection and segmentation
are given what mmcv's ``LoadImageFromFile`` reads in the pipelines of their configs. It turns images upright too.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ssm_core.backbone import MIN_SIDE
from ssm_core.errors import DataError
from ssm_train.runtime.files import write_atomically

EXTENSIONS = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
# The exceptions that decoders raise for a file that is no image. Pillow raises SyntaxError for broken PNGs, and
# DecompressionBombError, a direct subclass of Exception, for enormous sizes. OpenCV has an error of its own. mmcv
# asserts that an image was decoded.
UNREADABLE = (OSError, ValueError, SyntaxError, AssertionError, cv2.error, Image.DecompressionBombError)
Mode = Literal["RGB", "L"]
_END_OF_JPEG = b"\xff\xd9"
_LONGEST = 8  # no side of a scaled image is longer than this many sides of the square of the same area


def decode(path: str | Path, mode: Mode = "RGB", max_megapixels: float | None = None) -> Image.Image:
    """Decode an image file, turned upright as its EXIF orientation says, eight bits a channel.

    Args:
        path: the file.
        mode: ``"RGB"`` for three channels, ``"L"`` for one.
        max_megapixels: largest size in millions of pixels. A larger image is refused before it is decoded. None for
            no limit.

    Raises:
        DataError: the image is too large.
        OSError: the file cannot be read. Decoders may raise any other of :data:`UNREADABLE`.
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
        title: name of the image in an error; its path if left out.

    Raises:
        DataError: the image cannot be read, or it is too large.
    """
    try:
        return decode(path, mode, max_megapixels)
    except UNREADABLE as error:
        raise DataError(f"cannot read the image {title or path}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Why an image is unreadable: the text of an exception on one line, without the path that some of them repeat."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def read_rgb(path: str | Path) -> np.ndarray:  # [H, W, 3] uint8
    """:func:`read_image` in mode RGB, as an array.

    Raises:
        DataError: the image cannot be read.
    """
    return np.asarray(read_image(path))


def check_whole(path: str | os.PathLike) -> None:
    """Check that an image file exists, is not empty and, if it is a JPEG, is not cut off.

    OpenCV fills the missing part of a JPEG with grey and gives no error.

    Raises:
        OSError: the file fails one of the checks.
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
    # Some encoders write more bytes after the end marker. Then only decoding shows whether the image is whole.
    if path.suffix.lower() in (".jpg", ".jpeg") and ending != _END_OF_JPEG:
        with Image.open(path) as image:
            image.load()


def find_images(place: Path, extensions: Sequence[str] = EXTENSIONS) -> list[Path]:
    """The image file at a path, or all image files in a folder and its sub-folders, sorted.

    Args:
        place: a file or a folder.
        extensions: endings of image files, in lower case.

    Raises:
        DataError: there is no image.
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
) -> np.ndarray:  # [H, W, 3], or [H, W] if grey; 0 … 1
    """Scale an image to the area of a square, and keep its aspect ratio.

    Args:
        image: in mode RGB or L.
        side: side of the square in pixels.
    """
    scale = side / (image.width * image.height) ** 0.5
    width, height = (min(max(round(n * scale), MIN_SIDE), _LONGEST * side) for n in image.size)
    return to_array(image.resize((width, height), Image.Resampling.BICUBIC))


def to_square(
    image: Image.Image,
    side: int,
) -> np.ndarray:  # [H, W, 3], or [H, W] if grey; 0 … 1
    """Crop the largest square in the centre of an image and scale it.

    Args:
        image: in mode RGB or L.
        side: side of the result in pixels.
    """
    return to_array(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))


def to_array(image: Image.Image) -> np.ndarray:  # [H, W, 3], or [H, W] if grey; 0 … 1
    """Convert an image in mode RGB or L to float32 values between 0 and 1."""
    return np.asarray(image, dtype=np.float32) / 255


def write_png(path: str | Path, image: Image.Image) -> None:
    """Write a picture.

    Raises:
        WriteError: the file cannot be written.
    """
    write_atomically(path, lambda file: image.save(file, "PNG"), durable=False)
