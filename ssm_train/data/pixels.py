"""Reads the values of images in files and in memory: of any depth, and with all channels, upright.

Pillow's modes of eight bits stay as they are. All else becomes an array of values from 0 to 255 by one rule, see
:func:`to_levels`.
"""

import functools
import io
import logging
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ssm_core.errors import ConfigError, DataError

ValueRange = tuple[float, float]
TIFF = (".tif", ".tiff")
NPY = ".npy"
LEVELS = 255
_COLOURS = ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa")  # Pillow's modes that are read as RGB
_GREYS = ("1", "La")  # Pillow's modes that are read as L
ORIENTATION = 274  # the number of the tag in TIFF and in EXIF
_MOST_CHANNELS = 1024
_SUBFILE = 254  # the number of TIFF's tag that says what a page is
_OTHER = 1 | 4  # its bits of a smaller version of another page, and of a mask
_MOST_PAGES = 4 * _MOST_CHANNELS  # further ones are not counted
# What Pillow raises for a page that it does not read. For a first page, Image.open makes an OSError of it.
_NO_PAGE = (OSError, ValueError, SyntaxError, TypeError, LookupError, OverflowError, AttributeError, struct.error)


class ImageBytes(NamedTuple):
    """An image file that is in memory, such as one from an archive.

    Attributes:
        name: its name. The ending says what it holds, where the content does not.
        content: what the file holds.
    """

    name: str
    content: bytes


# A file or the content of one, an image of Pillow's, or an array [H, W] or [H, W, C].
ImageSource = str | Path | ImageBytes | Image.Image | np.ndarray


def open_image(
    source: ImageSource,
    value_range: Sequence[float] | None = None,
    max_megapixels: float | None = None,
    channels: int | None = None,
) -> Image.Image | np.ndarray:
    """Open an image and turn it upright.

    Args:
        source: a file that Pillow reads, a TIFF with any number of channels, or an array [H, W] or [H, W, C] of NumPy
            in a ``.npy`` file; or the content of such a file. Or an image of Pillow's or such an array itself; of three
            channels, red is the first.
        value_range: the values that become 0 and 255; see :func:`to_levels`.
        max_megapixels: largest size in millions of pixels. A larger image is refused before it is decoded. None for
            no limit but Pillow's, 179 megapixels.
        channels: how many channels are asked for. The pages of a TIFF of several grey pages are the channels of one
            image where they are as many; None takes any number. Smaller versions and masks of a page do not count.

    Returns:
        An image in mode L, LA, RGB or RGBA, which is decoded already. Or, where the source has another number of
        channels or more than eight bits, or is an array, an array [H, W, C] of float32 from 0 to 255.

    Raises:
        DataError: the image has more than ``max_megapixels``.
        ConfigError: ``value_range`` is not two finite numbers of which the second is larger.
        OSError: the file cannot be read. Decoders may raise any other of :data:`~ssm_train.data.images.UNREADABLE`, and
            so does a file of another form than those above, or whose values have no range.
    """
    if isinstance(source, np.ndarray):
        return _finish(source, 1, "", value_range, max_megapixels)
    if isinstance(source, Image.Image):
        _check_size("", source.height, source.width, max_megapixels)
        return _of_upright(ImageOps.exif_transpose(source), value_range)
    in_memory = isinstance(source, ImageBytes)
    file = io.BytesIO(source.content) if in_memory else source
    path = Path(source.name if in_memory else source)
    if not in_memory:
        check_regular(path)
    if path.suffix.lower() == NPY:
        try:
            values = np.load(file, mmap_mode=None if in_memory else "r", allow_pickle=False)
        except MemoryError as error:
            raise ValueError("its header names more values than fit into memory") from error
        return _finish(values, 1, path.name, value_range, max_megapixels)
    try:
        image = open_with_pillow(file)
    except OSError:
        if path.suffix.lower() not in TIFF or not (len(source.content) if in_memory else os.path.getsize(path)):
            raise
        return _open_tiff(file, path.name, value_range, max_megapixels)
    with image:
        _check_size(path.name, image.height, image.width, max_megapixels)
        pages = pages_of(image)
        if len(pages) > 1:
            grey = len(image.getbands()) == 1 and image.mode not in _COLOURS
            if not grey or len(pages) != (channels or len(pages)):
                how = f", or read them by channels={len(pages)}" if grey else ""
                raise ValueError(f"it has {len(pages)} pages, and is read as one image: save one page alone{how}")
            return _of_pages(image, pages, path.name, value_range)
        with _damage_is_unreadable():
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
        return _of_upright(image, value_range)


def open_with_pillow(file: str | os.PathLike | IO[bytes]) -> Image.Image:
    """Open a file with Pillow. Of a file with many channels it only raises an error, since tifffile reads it then."""
    _keep_quiet_about_channels()
    return Image.open(file)


@functools.cache
def _keep_quiet_about_channels() -> None:
    # Pillow says it on the terminal before it raises an error.
    logging.getLogger("PIL.TiffImagePlugin").addFilter(lambda record: "More samples per pixel" not in str(record.msg))


def check_regular(path: str | os.PathLike) -> None:
    """Check that opening a path ends. Opening a pipe would wait for somebody to write into it.

    Raises:
        OSError: it is a pipe, a device or a socket, or there is nothing.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, who opens it says what is wrong
        raise OSError("it is no file, but a pipe, a socket or a device")


def pages_of(image: Image.Image) -> list[int]:
    """The numbers of the pages of a TIFF that are images like its first; the first alone of any other file.

    Args:
        image: an open file, at its first page.
    """
    alike = [0]
    if image.format != "TIFF":
        return alike
    first = image.size, image.mode
    for number in range(1, _MOST_PAGES):
        try:
            image.seek(number)
            kind = image.tag_v2.get(_SUBFILE, 0)
        except EOFError:
            break
        except _NO_PAGE:  # of a kind that Pillow does not read, or damaged: it is none like the first
            continue
        if (image.size, image.mode) == first and not (isinstance(kind, int) and kind & _OTHER):
            alike.append(number)
    image.seek(0)
    return alike


@contextmanager
def _damage_is_unreadable() -> Iterator[None]:
    """Make an OSError of what Pillow raises where the tags of a damaged file have other types than they must have."""
    try:
        yield
    except (TypeError, LookupError, AttributeError, OverflowError, struct.error) as error:
        raise OSError(f"it is damaged ({' '.join(str(error).split())})") from error


def _of_pages(
    image: Image.Image, pages: Sequence[int], name: str, value_range: Sequence[float] | None
) -> np.ndarray:  # [H, W, pages] float32, 0 … 255
    planes = []
    with _damage_is_unreadable():
        orientation = int(image.getexif().get(ORIENTATION, 1))
        for number in pages:
            image.seek(number)
            planes.append(np.array(image))
    return _finish(np.stack(planes, axis=-1), orientation, name, value_range, None)


def _of_upright(image: Image.Image, value_range: Sequence[float] | None) -> Image.Image | np.ndarray:
    if not image.width or not image.height:
        raise _no_image((image.height, image.width))
    if image.mode in _COLOURS:
        image = image.convert("RGB")
    elif image.mode in _GREYS:
        image = image.convert("L")
    if image.mode in ("L", "LA", "RGB", "RGBA") and value_range is None:
        image.load()
        return image
    return _finish(np.asarray(image), 1, "", value_range, None)


def to_levels(
    values: np.ndarray,
    value_range: Sequence[float] | None,
) -> np.ndarray:  # float32, 0 … 255
    """Scale the values of an image to those from 0 to 255.

    Without a range, the type says which values are black and white: 0 and 255 of eight bits, 0 and 65535 of 16 bits
    without a sign, 0 and 1 of floating-point and truth values. Values outside of a given range become its ends.

    Args:
        values: of any shape and real type.
        value_range: the values that become 0 and 255; None for those of the type.

    Raises:
        ValueError: a value is NaN or infinite, or the type says no range and none is given, or floating-point values
            are outside of 0 to 1.
        ConfigError: ``value_range`` is not two finite numbers of which the second is larger.
    """
    values = in_native_order(values)
    if values.dtype.kind not in "buif":
        raise ValueError(f"its values are {values.dtype}, and must be real numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("it has values that are NaN or infinite")
    low, high = _range_of(values) if value_range is None else check_range(value_range)
    levels = (values.astype(np.float64) - low) * (LEVELS / (high - low))
    return levels.clip(0, LEVELS).astype(np.float32)


def in_native_order(values: np.ndarray) -> np.ndarray:
    """Values whose bytes have the order of this machine, as NumPy's types are compared and torch reads them."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def check_range(value_range: Sequence[float]) -> ValueRange:
    """Check a range that a config gives.

    Raises:
        ConfigError: it is not two finite numbers of which the second is larger.
    """
    pair = tuple(value_range) if isinstance(value_range, list | tuple) else ()
    numbers = len(pair) == 2 and all(isinstance(n, int | float) and np.isfinite(n) for n in pair)
    if not numbers or not pair[0] < pair[1]:
        raise ConfigError(
            "value_range is the values of black and white, such as (0, 4095) for a camera of 12 bits, not "
            f"{value_range!r}"
        )
    return float(pair[0]), float(pair[1])


def _range_of(values: np.ndarray) -> ValueRange:
    limits = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(bool): 1.0}
    if values.dtype in limits:
        return 0.0, limits[values.dtype]
    least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if values.dtype.kind == "f" and least >= 0 and most <= 1:
        return 0.0, 1.0
    raise ValueError(
        f"its values, of type {values.dtype}, go from {least:g} to {most:g}: say which are black and white by "
        "value_range=(black, white)"
    )


def _open_tiff(
    file: str | Path | io.BytesIO, name: str, value_range: Sequence[float] | None, max_megapixels: float | None
) -> np.ndarray:
    """Open a TIFF that Pillow does not read: one of many channels, or of many bits a channel."""
    import tifffile

    try:
        with tifffile.TiffFile(file) as opened:
            series, tags = opened.series[0], opened.pages[0].tags
            axes = series.axes.replace("I", "Q")
            sizes = dict(zip(axes, series.shape, strict=True))
            others = [axis for axis in axes if axis not in "YX" and sizes[axis] != 1]
            if "Y" not in axes or "X" not in axes or len(others) > 1:
                raise ValueError(
                    f"its axes are {series.axes} of sizes {series.shape}, and one image has Y, X and channels"
                )
            _check_size(name, sizes["Y"], sizes["X"], max_megapixels)
            values = series.asarray()
            orientation = tags[ORIENTATION].value if ORIENTATION in tags else 1
    except (ValueError, LookupError, tifffile.TiffFileError) as error:
        raise OSError(f"it is no TIFF that can be read ({' '.join(str(error).split())})") from error
    order = [axes.index("Y"), axes.index("X"), *(axes.index(axis) for axis in others)]
    rest = [i for i in range(len(axes)) if i not in order]
    values = values.transpose(*order, *rest).reshape([sizes[axes[i]] for i in order])
    return _finish(values, int(orientation), name, value_range, max_megapixels)


def _finish(
    values: np.ndarray,
    orientation: int,
    name: str,
    value_range: Sequence[float] | None,
    max_megapixels: float | None,
) -> np.ndarray:  # [H, W, C] float32, 0 … 255
    if values.ndim not in (2, 3) or not 0 < values[..., None].shape[2] <= _MOST_CHANNELS or not values.size:
        raise _no_image(values.shape)
    _check_size(name, *values.shape[:2], max_megapixels)
    levels = to_levels(values, value_range).reshape(*values.shape[:2], -1)
    if orientation in (5, 6, 7, 8):
        levels = levels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        levels = levels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        levels = levels[::-1]
    return np.ascontiguousarray(levels)


def _no_image(shape: tuple[int, ...]) -> ValueError:
    return ValueError(f"it has the shape {shape}, and an image has [height, width] or [height, width, channels]")


def _check_size(name: str, height: int, width: int, max_megapixels: float | None) -> None:
    if max_megapixels is not None and height * width > max_megapixels * 1e6:
        size = f"{width} × {height} pixels"
        raise DataError(f"the image {name} has {size}: at most {max_megapixels:g} megapixels are taken")
    if Image.MAX_IMAGE_PIXELS is not None and height * width > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"it has {height * width} pixels, more than {2 * Image.MAX_IMAGE_PIXELS}")
