"""COCO 2017: link it into place, count it and compare it with its annotations."""

import json
import os
from pathlib import Path

from ssm_core.errors import DataError
from ssm_train.data.inside import check_name
from ssm_train.data.prepare.arrange import arrange, shorten

# Numbers of images, including those without objects, and of instances in each split.
SIZES = {"train": (118_287, 860_001), "val": (5_000, 36_781)}
CATEGORIES = 80
_HOW = "download train2017.zip, val2017.zip and annotations_trainval2017.zip from cocodataset.org, unpack them"


def prepare_coco(root: Path, source: Path | None) -> str:
    """Arrange a downloaded COCO 2017 as ``root/coco/{train2017,val2017,annotations}``, and verify it.

    Every annotation file must be readable and have 80 categories, and every image that it names must exist.

    Args:
        root: folder of all datasets.
        source: folder of the unpacked download, or None to check what is in ``root``.

    Returns:
        A line on each split.

    Raises:
        DataError: a file is missing or damaged.
    """
    target = root / "coco"
    arrange(("train2017", "val2017", "annotations"), target, source, _HOW)
    return "\n".join(_check_split(target, split) for split in SIZES)


def _check_split(target: Path, split: str) -> str:
    path = target / "annotations" / f"instances_{split}2017.json"
    try:
        content = json.loads(path.read_bytes())
        named = [check_name(image["file_name"], path) for image in content["images"]]
        instances, categories = len(content["annotations"]), len(content["categories"])
    except FileNotFoundError:
        raise DataError(f"there is no {path}: it is in annotations_trainval2017.zip") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged or no COCO file: {type(error).__name__}: {error}") from None
    if categories != CATEGORIES:
        raise DataError(f"{path} has {categories} categories, but COCO has {CATEGORIES}")
    folder = target / f"{split}2017"
    there = {entry.name for entry in os.scandir(folder) if entry.stat().st_size}
    missing = sorted(set(named) - there)
    if missing:
        raise DataError(f"{folder} has {len(missing)} of {len(named)} images missing or empty: {shorten(missing)}")
    images, objects = SIZES[split]
    known = "complete" if (len(named), instances) == SIZES[split] else f"COCO 2017 has {images} with {objects}"
    return f"{folder}: {len(named)} images with {instances} instances, {known}"
