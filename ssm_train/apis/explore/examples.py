"""The photos that the page opens with. They come with scikit-image and scikit-learn."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ssm_core.errors import MissingPackageError
from ssm_train.data.images import write_png
from ssm_train.data.prepare.photo_crops import CLASSES
from ssm_train.data.prepare.photos import load_photo, load_unseen_photo

UNSEEN = "motorcycle"  # the example that no shipped model was trained on
NAMES = ("chelsea", "coffee", "astronaut", "china", "flower", "rocket", "camera", UNSEEN)
_THUMBNAIL = 24  # side in pixels of the small pictures by which photos are compared
_ALIKE = 0.97  # correlation of two such pictures above which they show the same photo
_SHAPE = 0.03  # difference of two aspect ratios, as a share


class Example(NamedTuple):
    """One of the photos that the page opens with.

    Attributes:
        name: what it shows.
        path: the file.
    """

    name: str
    path: Path


def write_examples(folder: Path) -> list[Example]:
    """Write the example photos as files.

    Args:
        folder: where they go.

    Returns:
        The photos; fewer, or none, if a package that has them is not installed.

    Raises:
        WriteError: a file cannot be written.
    """
    found = []
    for name in NAMES:
        try:
            photo = load_unseen_photo() if name == UNSEEN else load_photo(CLASSES[name])
        except MissingPackageError:
            continue
        path = folder / f"{name}.png"
        write_png(path, Image.fromarray(photo))
        found.append(Example(name, path))
    return found


def known_photo(
    image: np.ndarray,  # [H, W, 3] or [H, W], 0 … 1
) -> str | None:
    """Find out which of the photos of :mod:`.photo_crops` an image shows as a whole.

    Args:
        image: the image, in any size.

    Returns:
        The name of its class; None if it is none of them.
    """
    height, width = image.shape[:2]
    small = _thumbnail(Image.fromarray((image * 255).round().astype(np.uint8)))
    for name, (ratio, thumbnail) in _known().items():
        if _correlation(small, thumbnail) > _ALIKE and abs(width / height / ratio - 1) < _SHAPE:
            return name
    return None


@lru_cache(maxsize=1)
def _known() -> dict[str, tuple[float, np.ndarray]]:
    """The aspect ratio and a small picture of every photo."""
    found = {}
    for name, file in CLASSES.items():
        try:
            photo = Image.fromarray(load_photo(file))
        except MissingPackageError:
            continue
        found[name] = (photo.width / photo.height, _thumbnail(photo))
    return found


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    a, b = first - first.mean(), second - second.mean()
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))


def _thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX), dtype=float) / 255
