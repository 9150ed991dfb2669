"""Writing image files. The same pixels give the same bytes, if Pillow is the same."""

from pathlib import Path

import numpy as np
from PIL import Image

_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
_PNG = {"format": "PNG", "optimize": False, "compress_level": 6}


def write_picture(
    path: Path,
    pixels: np.ndarray,  # [H, W] or [H, W, 3] uint8
) -> None:
    """Write an image in the format of its suffix: ``.jpg``, or ``.png`` for label maps, which must stay exact."""
    Image.fromarray(pixels).save(path, **(_JPEG if path.suffix == ".jpg" else _PNG))


def clear(folder: Path, *suffixes: str) -> None:
    """Make a folder, and delete the files of an earlier run in it.

    Args:
        folder: the folder.
        suffixes: suffixes of the files to delete, such as ``".png"``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.suffix in suffixes:
            path.unlink()
