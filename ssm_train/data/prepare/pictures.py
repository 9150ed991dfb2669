"""Writing image files. The same pixels give the same bytes, if Pillow is the same."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ssm_core.writing import explained
from ssm_train.runtime.files import make_folder, write_atomically

_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
_PNG = {"format": "PNG", "optimize": False, "compress_level": 6}


def write_picture(
    path: Path,
    pixels: np.ndarray,  # [H, W] or [H, W, 3] uint8
) -> None:
    """Write an image in the format of its suffix: ``.jpg``, or ``.png`` for label maps, which must stay exact.

    Raises:
        WriteError: the file cannot be written.
    """
    image, form = Image.fromarray(pixels), _JPEG if path.suffix == ".jpg" else _PNG
    # A data set has many files. Waiting for the disk after each would take most of the time.
    write_atomically(path, lambda file: image.save(file, **form), durable=False)


class Split(NamedTuple):
    """Places of a split of a dataset with boxes, masks and label maps.

    Attributes:
        images: folder of the images.
        maps: folder of the label maps.
        annotations: COCO's file.
    """

    images: Path
    maps: Path
    annotations: Path


def begin_split(folder: Path, name: str, suffix: str) -> Split:
    """Make the folders of a split, and delete what an earlier run put there.

    The annotations go first, so that they never describe images of another run if this one does not reach its end.

    Args:
        folder: the folder of the dataset.
        name: of the split.
        suffix: of the images, such as ``".jpg"``. Label maps end in ``.png``.

    Raises:
        WriteError: a folder cannot be made, or a file cannot be deleted.
    """
    split = Split(folder / name, folder / f"{name}_labels", folder / f"{name}.json")
    make_folder(split.images)
    make_folder(split.maps)
    with explained(folder):
        split.annotations.unlink(missing_ok=True)
        for path in (*split.images.glob(f"*{suffix}"), *split.maps.glob("*.png")):
            path.unlink()
    return split
