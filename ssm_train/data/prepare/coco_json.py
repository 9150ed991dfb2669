"""Writing instance annotations in COCO's format, masks as run lengths, so that they come back exactly."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from ssm_core.errors import MissingPackageError
from ssm_train.runtime.files import write_text_atomically


def outline(
    mask: np.ndarray,  # [H, W] bool
) -> dict:
    """What the format says of a mask: ``segmentation``, ``area`` and ``bbox``.

    Raises:
        MissingPackageError: pycocotools is not installed.
    """
    codec = _codec()
    code = codec.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "segmentation": {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode()},
        "area": int(codec.area(code)),
        "bbox": [int(n) for n in codec.toBbox(code)],
    }


def _codec() -> ModuleType:
    try:
        from pycocotools import mask
    except ImportError:
        raise MissingPackageError("pycocotools", "writing COCO annotations", "det") from None
    return mask


class CocoFile:
    """Images and instances of one split.

    Args:
        classes: names of the categories, which get the ids 1, 2, …

    Raises:
        MissingPackageError: pycocotools is not installed.
    """

    def __init__(self, classes: Sequence[str]):
        _codec()
        self.categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add_image(self, file_name: str, height: int, width: int) -> int:
        """Note an image and return its id."""
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, "height": height, "width": width})
        return len(self.images)

    def add_instance(
        self,
        image: int,
        category: int,
        mask: np.ndarray,  # [H, W] bool
        crowd: bool = False,
    ) -> None:
        """Note an instance.

        Args:
            image: its image's id.
            category: its category's id, from 1 on.
            mask: its visible pixels, at least one.
            crowd: neither an object to find nor background: training and evaluation leave it out.
        """
        self.add_outline(image, category, outline(mask), crowd)

    def add_outline(self, image: int, category: int, shape: dict, crowd: bool = False) -> None:
        """:meth:`add_instance` for a mask whose :func:`outline` is known."""
        numbers = {"id": len(self.annotations) + 1, "image_id": image, "category_id": category}
        self.annotations.append({**numbers, **shape, "iscrowd": int(crowd)})

    def write(self, path: Path) -> None:
        """Write the file, the same bytes for the same content."""
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        write_text_atomically(path, json.dumps(content, separators=(",", ":")))
