"""Writing instance annotations in COCO's format. Masks are stored as run lengths, so that no pixel is lost."""

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
    """The fields of the format that describe a mask: ``segmentation``, ``area`` and ``bbox`` in pixels.

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
    """A COCO file in the making: the images and instances of one split.

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
        """Add an image, and return its id."""
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, "height": height, "width": width})
        return len(self.images)

    def add_instance(
        self,
        image: int,
        category: int,
        mask: np.ndarray,  # [H, W] bool
        crowd: bool = False,
    ) -> None:
        """Add an instance.

        Args:
            image: id of its image.
            category: id of its category, from 1 on.
            mask: its visible pixels, at least one.
            crowd: whether the instance is neither an object to find nor background. Training and evaluation ignore
                such an instance.
        """
        self.add_outline(image, category, outline(mask), crowd)

    def add_outline(self, image: int, category: int, shape: dict, crowd: bool = False) -> None:
        """:meth:`add_instance` for a mask whose :func:`outline` is known."""
        numbers = {"id": len(self.annotations) + 1, "image_id": image, "category_id": category}
        self.annotations.append({**numbers, **shape, "iscrowd": int(crowd)})

    def write(self, path: Path) -> None:
        """Write the file. The same content gives the same bytes.

        Raises:
            WriteError: it cannot be written.
        """
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        write_text_atomically(path, json.dumps(content, separators=(",", ":")))
