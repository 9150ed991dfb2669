"""Scenes of the composited set as images of one class each: the class of their largest item.

The images are in one array a split, so that a loader copies batches instead of decoding files.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from ssm_core.errors import DataError
from ssm_core.writing import explained
from ssm_train.data.images import UNREADABLE, decode, reason
from ssm_train.data.prepare.processes import for_each, usable_cores
from ssm_train.runtime.files import assembling

SPLITS = ("train", "val")


def prepare_largest_item(root: Path, source: Path | None) -> str:
    """Write ``root/largest-item/{train,val}_images.npy`` and ``{train,val}_labels.npy``.

    Args:
        root: folder of all datasets.
        source: folder of the composited set; None for ``root/composite``.

    Returns:
        A line on each split.

    Raises:
        DataError: the composited set is missing or damaged, or its images have several sizes.
        WriteError: a file cannot be written.
    """
    folder, target = source or root / "composite", root / "largest-item"
    lines = []
    for split in SPLITS:
        names, labels = largest_items(folder / f"{split}.json")
        with assembling(target) as temporary, explained(target):
            size = _pixels(folder / split / names[0]).shape
            images = open_memmap(temporary / f"{split}_images.npy", "w+", np.uint8, (len(names), *size))

            def write(number: int, split: str = split, names: list[str] = names, images: np.memmap = images) -> None:
                pixels = _pixels(folder / split / names[number])
                if pixels.shape != images.shape[1:]:
                    raise DataError(f"{folder / split / names[number]} has another size than {names[0]}")
                images[number] = pixels

            for _ in for_each(write, len(names), usable_cores()):
                pass
            images.flush()
            np.save(temporary / f"{split}_labels.npy", np.array(labels, np.int64))
        counts = np.bincount(labels)
        lines.append(f"{target}: {len(names)} {split} images, {counts.min()} to {counts.max()} of a class")
    return "\n".join(lines)


def largest_items(path: Path) -> tuple[list[str], list[int]]:
    """The images of a COCO file that have items, and the class of each one's largest item.

    The largest is the one with the most visible pixels, of equal ones the first. Classes are numbered from 0 in the
    order of the file's categories.

    Args:
        path: the file.

    Raises:
        DataError: it is missing or damaged, or has no items.
    """
    try:
        content = json.loads(path.read_text())
        numbers = {category["id"]: number for number, category in enumerate(content["categories"])}
        largest: dict[int, tuple[float, int]] = {}
        for item in content["annotations"]:
            image, area = item["image_id"], item["area"]
            if area > largest.get(image, (0, 0))[0]:
                largest[image] = area, numbers[item["category_id"]]
        found = [(image["file_name"], largest[image["id"]][1]) for image in content["images"] if image["id"] in largest]
        if not all(isinstance(name, str) for name, _ in found):
            raise TypeError("a file_name is no text")
    except OSError as error:
        raise DataError(
            f"there is no composited set: {path} cannot be read ({error.strerror}); make it with "
            "`tree-ssm prepare-data composite`"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is no COCO file of instances, or not all of it: {error}") from error
    if not found:
        raise DataError(f"{path} has no items")
    names, labels = map(list, zip(*found, strict=True))
    return names, labels


def _pixels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:  # [H, W, 3]
    try:
        return np.asarray(decode(path))
    except UNREADABLE as error:
        raise DataError(f"cannot read the image {path}: {reason(error)}") from error
