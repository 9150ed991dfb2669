"""ADE20K of the scene parsing challenge 2016: link it into place, count it and check every label map."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ssm_core.errors import DataError
from ssm_train.data.prepare.arrange import arrange, shorten

SIZES = {"training": 20_210, "validation": 2_000}
CLASSES = 150  # label maps number them 1 … 150, and 0 marks pixels without a label
_HOW = "download ADEChallengeData2016.zip from sceneparsing.csail.mit.edu, unpack it"


def prepare_ade20k(root: Path, source: Path | None) -> str:
    """Arrange a downloaded ADE20K as ``root/ade/ADEChallengeData2016/{images,annotations}``, and verify it.

    Every image must have a label map of its size with labels up to 150.

    Args:
        root: folder of all datasets.
        source: folder of the unpacked download, or None to check what is in ``root``.

    Returns:
        A line on each split.

    Raises:
        DataError: a file is missing, or a label map is wrong.
    """
    target = root / "ade" / "ADEChallengeData2016"
    arrange(("images", "annotations"), target, source, _HOW)
    return "\n".join(_check_split(target, split) for split in SIZES)


def _check_split(target: Path, split: str) -> str:
    images, maps = target / "images" / split, target / "annotations" / split
    for folder in (images, maps):
        if not folder.is_dir():
            raise DataError(f"there is no {folder}: unpack all of ADEChallengeData2016.zip")
    names = _stems(images, ".jpg")
    labelled = _stems(maps, ".png")
    if names != labelled:
        alone = sorted(names ^ labelled)
        raise DataError(
            f"{len(alone)} files of {images} and {maps} have no counterpart in the other folder: {shorten(alone)}"
        )
    wrong = [f"{name} ({problem})" for name in sorted(names) if (problem := _problem(images, maps, name))]
    if wrong:
        raise DataError(f"{len(wrong)} of {len(names)} label maps in {maps} are wrong: {shorten(wrong)}")
    missing = SIZES[split] - len(names)
    return f"{images}: {len(names)} images with label maps{f', {missing} missing' if missing > 0 else ', complete'}"


def _stems(folder: Path, suffix: str) -> set[str]:
    return {os.path.splitext(entry.name)[0] for entry in os.scandir(folder) if entry.name.endswith(suffix)}


def _problem(images: Path, maps: Path, name: str) -> str | None:
    """What is wrong with an image and its label map, or None. Only the header of the image is read, to save time."""
    try:
        with Image.open(images / f"{name}.jpg") as image, Image.open(maps / f"{name}.png") as labels:
            if image.size != labels.size:
                return f"{labels.size} for an image of {image.size}"
            top = int(np.asarray(labels).max())
    except (OSError, ValueError, SyntaxError) as error:
        return str(error)
    return f"label {top}" if top > CLASSES else None
