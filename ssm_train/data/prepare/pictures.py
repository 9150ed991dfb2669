"""Image files, the same bytes for the same pixels and the same Pillow."""

from pathlib import Path

import numpy as np
from PIL import Image

_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
_PNG = {"format": "PNG", "optimize": False, "compress_level": 6}


def write_picture(
    path: Path,
    pixels: np.ndarray,  # [H, W] or [H, W, 3] uint8
) -> None:
    """Write an image as ``path`` is named: ``.jpg``, or ``.png`` for label maps and whatever has to stay exact."""
    Image.fromarray(pixels).save(path, **(_JPEG if path.suffix == ".jpg" else _PNG))


def clear(folder: Path, *suffixes: str) -> None:
    """Make a folder, and delete the pictures that an earlier run left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.suffix in suffixes:
            path.unlink()
