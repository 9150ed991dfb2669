"""The one way to read an image: which files are images, how they are turned and scaled, and which are unreadable.

All tasks and tools read through this module, for training, inference and pictures. :mod:`.pixels` has the values.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

from ssm_core.errors import DataError
from ssm_core.layers import MIN_SIDE
from ssm_train.data.pixels import LEVELS, NPY, ORIENTATION, ImageSource, check_regular, open_image, open_with_pillow
from ssm_train.data.shown import Bands, to_picture
from ssm_train.runtime.files import write_atomically

EXTENSIONS = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", NPY)
# The exceptions that decoders raise for a file that is no image. Pillow raises SyntaxError for broken PNGs, and
# DecompressionBombError, a direct subclass of Exception, for enormous sizes. OpenCV has an error of its own. mmcv
# asserts that an image was decoded.
UNREADABLE = (OSError, ValueError, SyntaxError, AssertionError, cv2.error, Image.DecompressionBombError)
Mode = Literal["RGB", "L"]
_END_OF_JPEG = b"\xff\xd9"
_LONGEST = 8  # no side of a scaled image is longer than this many sides of the square of the same area
_NO_DATA = ("__MACOSX",)  # folders that programs leave among data, beside those whose names begin with a dot


def decode(
    source: ImageSource,
    mode: Mode = "RGB",
    max_megapixels: float | None = None,
    value_range: Sequence[float] | None = None,
) -> Image.Image:
    """Decode an image, turned upright as its EXIF orientation says, eight bits a channel.

    Args:
        source: see :func:`.pixels.open_image`.
        mode: ``"RGB"`` for three channels, ``"L"`` for one.
        max_megapixels: see :func:`.pixels.open_image`.
        value_range: the values that become black and white, see :func:`.pixels.to_levels`.

    Raises:
        DataError: the image is too large.
        OSError: the file cannot be read. Decoders may raise any other of :data:`UNREADABLE`, and so does an image of
            five or more channels, which are no colours.
    """
    found = open_image(source, value_range, max_megapixels, 1 if mode == "L" else 3)
    if isinstance(found, np.ndarray):
        if found.shape[2] > 4:
            raise ValueError(f"it has {found.shape[2]} channels, which are no colours")
        found = to_picture(found)
    return found if found.mode == mode else found.convert(mode)  # converting copies


def decode_channels(
    source: ImageSource,
    channels: int,
    value_range: Sequence[float] | None = None,
    max_megapixels: float | None = None,
) -> Image.Image | np.ndarray:
    """Decode an image with any number of channels, turned upright.

    Args:
        source: see :func:`.pixels.open_image`.
        channels: one and three are grey and colours, to which any image of up to four channels is converted. Four are
            colours with their opacity, and images without opacity are opaque. Any other number is what the image must
            have.
        value_range: the values that become 0 and 255, see :func:`.pixels.to_levels`.
        max_megapixels: see :func:`.pixels.open_image`.

    Returns:
        An image in mode L or RGB for one and three channels. An array [H, W, channels] for all others, of uint8 or of
        float32 from 0 to 255.

    Raises:
        DataError: the image is too large.
        OSError: the file cannot be read. Decoders may raise any other of :data:`UNREADABLE`, and so does an image
            with another number of channels.
    """
    if channels in (1, 3):
        return decode(source, "L" if channels == 1 else "RGB", max_megapixels, value_range)
    found = open_image(source, value_range, max_megapixels, channels)
    if isinstance(found, Image.Image):
        found = np.array(found.convert("RGBA") if channels == 4 else found)  # a copy, which may be written to
        found = found.reshape(*found.shape[:2], -1)
    if found.shape[2] != channels:
        raise ValueError(f"it has {found.shape[2]} channels, and {channels} are asked for")
    return found


def read_channels(
    path: str | Path,
    channels: int,
    value_range: Sequence[float] | None = None,
    max_megapixels: float | None = None,
    title: str | None = None,
) -> Image.Image | np.ndarray:
    """:func:`decode_channels` for a file that a user named.

    Args:
        path: see :func:`decode_channels`.
        channels: see :func:`decode_channels`.
        value_range: see :func:`decode_channels`.
        max_megapixels: see :func:`.pixels.open_image`.
        title: name of the image in an error; its path if left out.

    Raises:
        DataError: the image cannot be read, is too large, or has another number of channels.
    """
    try:
        return decode_channels(path, channels, value_range, max_megapixels)
    except UNREADABLE as error:
        raise DataError(f"cannot read the image {title or path}: {reason(error)}") from error


def read_image(
    path: str | Path,
    mode: Mode = "RGB",
    max_megapixels: float | None = None,
    title: str | None = None,
    value_range: Sequence[float] | None = None,
    bands: Bands | None = None,
) -> Image.Image:
    """:func:`decode` for a file that a user named, as a picture to look at: of many channels, three.

    Args:
        path: see :func:`decode`.
        mode: see :func:`decode`.
        max_megapixels: see :func:`decode`.
        title: name of the image in an error; its path if left out.
        value_range: see :func:`decode`.
        bands: see :func:`.shown.to_picture`.

    Raises:
        DataError: the image cannot be read, or it is too large.
    """
    try:
        found = open_image(path, value_range, max_megapixels)
    except UNREADABLE as error:
        raise DataError(f"cannot read the image {title or path}: {reason(error)}") from error
    if isinstance(found, Image.Image) and bands is not None and max(bands) < len(found.getbands()):
        found = np.asarray(found).reshape(found.height, found.width, -1)
    if isinstance(found, np.ndarray):
        found = to_picture(found, bands)
    return found.convert(mode)


def reason(error: BaseException) -> str:
    """Why an image is unreadable: the text of an exception on one line, without the path that some of them repeat."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def check_whole(path: str | os.PathLike) -> None:
    """Check that an image file exists, is not empty and, if it is a JPEG, is not cut off.

    OpenCV fills the missing part of a JPEG with grey and gives no error.

    Raises:
        OSError: the file fails one of the checks.
    """
    path = Path(path)
    if path.exists():
        check_regular(path)
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
        with open_with_pillow(path) as image:
            image.load()


def size_in_file(path: str | Path) -> tuple[int, int]:
    """Height and width of the image in a file, turned upright. Of most files only the beginning is read.

    Raises:
        OSError: the file cannot be read; any other of :data:`UNREADABLE` says the same.
    """
    check_regular(path)
    try:
        with open_with_pillow(path) as image:
            turned = image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except UnidentifiedImageError:
        return size_of(open_image(path, (0, 1)))  # whatever the values mean


def files_below(folder: str | Path) -> Iterator[str]:
    """The paths of the files in a folder and its sub-folders, in no order.

    Links to folders are followed. Files and folders whose names begin with a dot are left out: programs keep things
    there, such as ``.ipynb_checkpoints``.
    """
    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        for name in list(folders):
            real = os.path.realpath(os.path.join(parent, name))
            if not is_data(name) or real in seen:  # a link may lead back to where it is
                folders.remove(name)
            seen.add(real)
        yield from (os.path.join(parent, name) for name in names if is_data(name))


def is_data(name: str) -> bool:
    """Whether a file or folder of this name is part of a dataset, and not something that a program left there."""
    return not name.startswith(".") and name not in _NO_DATA


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
    files = list(files_below(place))
    if found := sorted(Path(path) for path in files if path.lower().endswith(tuple(extensions))):
        return found
    others = f"; it has {endings(files)}" if files else ""
    raise DataError(
        f"there is no image {place}, nor a folder of that name with images ({', '.join(extensions)}){others}"
    )


def endings(files: Sequence[str]) -> str:
    """The endings of some files and how often they occur, in words: ``12 .heic``."""
    counts = Counter(os.path.splitext(path)[1].lower() or "without an ending" for path in files)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(3))


def to_area(
    image: Image.Image | np.ndarray,
    side: int,
) -> np.ndarray:  # [H, W, C], or [H, W] if grey; 0 … 1
    """Scale an image to the area of a square, and keep its aspect ratio.

    Args:
        image: as :func:`decode_channels` gives it.
        side: side of the square in pixels.
    """
    height, width = size_of(image)
    scale = side / (width * height) ** 0.5
    height, width = (min(max(round(n * scale), MIN_SIDE), _LONGEST * side) for n in (height, width))
    return to_array(resize(image, height, width))


def to_square(
    image: Image.Image | np.ndarray,
    side: int,
) -> np.ndarray:  # [H, W, C], or [H, W] if grey; 0 … 1
    """Crop the largest square in the centre of an image and scale it.

    Args:
        image: as :func:`decode_channels` gives it.
        side: side of the result in pixels.
    """
    if isinstance(image, Image.Image):
        return to_array(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))
    least = min(image.shape[:2])
    top, left = ((n - least) // 2 for n in image.shape[:2])
    return to_array(resize(image[top : top + least, left : left + least], side, side))


def resize(image: Image.Image | np.ndarray, height: int, width: int) -> Image.Image | np.ndarray:
    """Scale an image by bicubic interpolation, without aliasing.

    Args:
        image: as :func:`decode_channels` gives it; so is the result.
        height: of the result in pixels.
        width: of the result in pixels.
    """
    if isinstance(image, Image.Image):
        return image.resize((width, height), Image.Resampling.BICUBIC)
    planes = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    planes = F.interpolate(planes, (height, width), mode="bicubic", antialias=True)
    return planes[0].permute(1, 2, 0).clip(0, LEVELS).numpy()


def to_array(image: Image.Image | np.ndarray) -> np.ndarray:  # [H, W, C], or [H, W] if grey; 0 … 1
    """Convert an image that :func:`decode_channels` gives to float32 values between 0 and 1."""
    return np.asarray(image, dtype=np.float32) / LEVELS


def write_png(path: str | Path, image: Image.Image) -> None:
    """Write a picture.

    Raises:
        WriteError: the file cannot be written.
    """
    write_atomically(path, lambda file: image.save(file, "PNG"), durable=False)


def size_of(image: Image.Image | np.ndarray) -> tuple[int, int]:
    """Height and width."""
    return (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]
