"""Reads label maps, which have the number of a class for every pixel, from the kinds of files that programs write."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ssm_core.errors import ConfigError
from ssm_train.data.pixels import NPY, check_regular, in_native_order, open_with_pillow, pages_of

IGNORED = 255  # the label of pixels that belong to no class
Colour = Sequence[int]


def read_label_map(path: str | Path, palette: Sequence[Colour] | None = None) -> np.ndarray:  # [H, W] integer
    """Read a label map, of any depth.

    These have labels as they are: grey images of 1, 8, 16 or 32 bits, images with a palette (the numbers of the
    colours), colour images whose channels are equal, and arrays [H, W] of whole numbers in ``.npy`` files. Opacity is
    passed over. An image in other colours needs the palette.

    Args:
        path: the file. Its orientation in EXIF is heeded, as that of an image is.
        palette: the colour of each class, as red, green and blue from 0 to 255. A pixel of colour ``palette[k]`` has
            label k. White pixels, unless white is a class's colour, are ignored.

    Raises:
        ValueError: the file has colours and no palette is given, or a colour that the palette lacks, or numbers that
            are not whole, or several pages.
        OSError: the file cannot be read. Decoders may raise any other of :data:`~ssm_train.data.images.UNREADABLE`.
    """
    check_regular(path)
    if Path(path).suffix.lower() == NPY:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        with open_with_pillow(path) as image:
            if len(pages := pages_of(image)) > 1:
                raise ValueError(f"its label map has {len(pages)} pages, and must have one")
            values = np.asarray(_plain(ImageOps.exif_transpose(image), in_colours=palette is not None))
    if values.ndim == 3:
        values = _of_colours(values, palette)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"its label map has the shape {values.shape}, and needs [height, width]")
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.floor(values)).all()):
            raise ValueError("its label map has numbers that are not whole")
        values = values.astype(np.int64)
    return values.astype(np.uint8) if values.dtype.kind == "b" else np.ascontiguousarray(in_native_order(values))


def check_palette(palette: Sequence[Colour]) -> np.ndarray:  # [classes, 3] uint8
    """Check the colours of classes that a config gives.

    Raises:
        ConfigError: they are not three whole numbers from 0 to 255 each, or two classes have one colour.
    """
    try:
        colours = np.array(palette, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        colours = np.empty(0, np.int64)
    if colours.ndim != 2 or colours.shape[1] != 3 or not ((colours >= 0) & (colours <= 255)).all():
        raise ConfigError(f"a palette has three numbers from 0 to 255 for each class, not {palette!s:.100}")
    if len(np.unique(colours, axis=0)) < len(colours):
        raise ConfigError("two classes have the same colour in the palette")
    return colours.astype(np.uint8)


def _plain(image: Image.Image, in_colours: bool) -> Image.Image:
    """An image whose values are labels, or in colours."""
    if in_colours:
        return image.convert("RGB")
    if image.mode in ("LA", "PA"):
        return image.getchannel(0)
    keeps = image.mode in ("1", "L", "P", "I", "F", "RGB") or image.mode.startswith("I;16")
    return image if keeps else image.convert("RGB")


def _of_colours(
    values: np.ndarray,  # [H, W, 3] uint8
    palette: Sequence[Colour] | None,
) -> np.ndarray:  # [H, W]
    """The labels of an image in colours."""
    if values.shape[2] != 3 or values.dtype != np.uint8:
        raise ValueError(f"its label map has the shape {values.shape}, and needs [height, width]")
    if palette is None:
        if (values == values[..., :1]).all():
            return values[..., 0]
        raise ValueError(
            f"its label map is in colours, such as {_first_colour(values)}: give the step that loads label maps "
            "palette=[(red, green, blue), ...], with the colour of each class"
        )
    colours, found = _joined(check_palette(palette)), _joined(values)
    order = np.argsort(colours)
    places = order[np.searchsorted(colours[order], found).clip(0, len(order) - 1)]  # of the only colour it could be
    unknown, white = colours[places] != found, found == _joined(np.array([255, 255, 255]))
    if (unknown & ~white).any():
        missing = _first_colour(values[unknown & ~white])
        raise ValueError(f"its label map has the colour {missing}, which the palette lacks")
    return np.where(unknown, IGNORED, places)


def _joined(colours: np.ndarray) -> np.ndarray:  # of [..., 3]
    """One number for each colour."""
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue


def _first_colour(values: np.ndarray) -> tuple[int, ...]:
    """The first colour that is not a grey, or the first of all."""
    flat = values.reshape(-1, values.shape[-1])
    coloured = flat[(flat != flat[:, :1]).any(axis=1)]
    return tuple(int(n) for n in (coloured if len(coloured) else flat)[0])
