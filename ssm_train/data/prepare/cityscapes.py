"""Cityscapes: link it into place, and make label maps of the 19 evaluated classes from those of all 35."""

from pathlib import Path

import numpy as np
from PIL import Image

from ssm_core.errors import DataError
from ssm_train.data.prepare.arrange import arrange, link, shorten
from ssm_train.data.prepare.pictures import write_picture
from ssm_train.runtime.files import make_folder

SIZES = {"train": 2975, "val": 500}
# The ids of the 19 classes that are evaluated, in the order of their training labels (Cordts et al. 2016).
EVALUATED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
IGNORED = 255
_HOW = "download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from cityscapes-dataset.com, unpack them"


def prepare_cityscapes(root: Path, source: Path | None) -> str:
    """Arrange a downloaded Cityscapes as ``root/cityscapes/{leftImg8bit,gtFine}``, make its label maps, and count it.

    Missing files ``gtFine/*/*/*_labelTrainIds.png`` are written into ``root``, never into ``source``.

    Args:
        root: folder of all datasets.
        source: folder of the unpacked download, or None to complete what is in ``root``.

    Returns:
        A line on each split.

    Raises:
        DataError: a folder or a label map is missing.
    """
    target = root / "cityscapes"
    arrange(("leftImg8bit", "gtFine"), target if source is None else source, None, _HOW)
    lines = []
    for split in SIZES:
        folder = target if source is None else source
        images = sorted((folder / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
        without = [image.name for image in images if not _make_labels(image, folder, target)]
        if without:
            raise DataError(f"{len(without)} images of {folder} have no label map in gtFine: {shorten(without)}")
        missing = SIZES[split] - len(images)
        words = f", {missing} missing" if missing > 0 else ", complete"
        lines.append(f"{target / 'leftImg8bit' / split}: {len(images)} images with label maps{words}")
    return "\n".join(lines)


def _make_labels(image: Path, folder: Path, target: Path) -> bool:
    """Put an image and its label map of 19 classes in place. Return False if there is no label map to make it from."""
    city = image.relative_to(folder / "leftImg8bit").parent
    stem = image.name.removesuffix("_leftImg8bit.png")
    maps = target / "gtFine" / city
    make_folder(maps)
    made = maps / f"{stem}_gtFine_labelTrainIds.png"
    given = folder / "gtFine" / city / made.name
    ids = given.with_name(f"{stem}_gtFine_labelIds.png")
    if folder != target:
        link(image, target / "leftImg8bit" / city / image.name)
        if given.exists():
            link(given, made)
    if made.exists():
        return True
    if not ids.exists():
        return False
    with Image.open(ids) as labels:
        write_picture(made, training_labels(np.array(labels)))
    return True


def training_labels(
    ids: np.ndarray,  # [H, W] uint8
) -> np.ndarray:  # [H, W] uint8
    """Translate the ids of all 35 classes to the labels 0 … 18 of the evaluated ones; all others become 255."""
    table = np.full(256, IGNORED, np.uint8)
    table[list(EVALUATED_IDS)] = np.arange(len(EVALUATED_IDS), dtype=np.uint8)
    return table[ids]
