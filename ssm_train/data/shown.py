"""What a picture shows of an image with any number of channels, whose values may mean anything."""

import logging
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from ssm_core.errors import ConfigError
from ssm_train.data.pixels import LEVELS

Bands = tuple[int, int, int]  # numbers of channels, from 0


def check_bands(bands: Sequence[int] | None, channels: int) -> Bands | None:
    """Check the channels that a config chooses for pictures.

    Args:
        bands: what the config has; None if it chooses none.
        channels: the number of channels of the images.

    Raises:
        ConfigError: these are not three channels of the images.
    """
    if bands is None:
        return None
    chosen = tuple(bands) if isinstance(bands, list | tuple) else ()
    if len(chosen) != 3 or not all(type(band) is int and 0 <= band < channels for band in chosen):
        raise ConfigError(
            f"visualizer.bands is three channels from 0 to {channels - 1}, which pictures show as red, green and blue, "
            f"not {bands!r}"
        )
    return chosen


def to_picture(values: np.ndarray, bands: Bands | None = None) -> Image.Image:  # of [H, W, C], 0 … 255
    """A picture of an image with any number of channels.

    Args:
        values: the image.
        bands: the channels that are shown as red, green and blue. Without them, or if the image has not so many,
            pictures show the first of one or two channels, and the first three of more. Of five or more, this is said
            once.
    """
    channels = values.shape[2]
    if bands is not None and max(bands) < channels:
        shown = values[..., list(bands)]
    else:
        if channels > 4:
            _say_that_three_are_shown()
        shown = values[..., :3] if channels > 2 else values[..., 0]
    # 256 steps of equal width. Of 16 bits these are the upper eight, which Pillow takes where it reads colours.
    levels = np.floor(shown * np.float64(256 / 255)) if values.dtype.kind == "f" else shown
    return Image.fromarray(levels.clip(0, LEVELS).astype(np.uint8))


def to_shown(
    image: np.ndarray,  # [H, W, C] or [H, W], 0 … 1
    bands: Bands | None = None,
) -> np.ndarray:  # [H, W, 3] or [H, W], 0 … 1
    """What pictures show of an image, see :func:`to_picture`."""
    if image.ndim == 2 or (bands is None and image.shape[2] in (1, 3)):
        return image
    return np.asarray(to_picture(image * LEVELS, bands), dtype=np.float32) / LEVELS


def stretched(values: np.ndarray) -> np.ndarray:
    """Scale values of which nobody knows what is black and white, so that their lowest is 0 and their highest 255."""
    values = np.nan_to_num(values.astype(np.float32))
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    return (values - low) * (LEVELS / (high - low)) if high > low else np.zeros_like(values)


@lru_cache(1)
def _say_that_three_are_shown() -> None:
    """Warn once of what pictures leave out."""
    words = (
        "pictures of images with five or more channels show the first three: visualizer.bands=R,G,B in the config "
        "chooses others, by their numbers from 0"
    )
    print_log(words, logger="current", level=logging.WARNING)
