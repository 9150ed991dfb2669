"""The content of an annotation file as arrays, which take a tenth of the memory of dictionaries and can be mapped."""

import itertools
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ssm_train.data.array_file import ArrayFile

_NO_MASK, _POLYGONS, _TEXT, _LENGTHS = range(4)  # kinds of masks


class ColumnsMaker:
    """Makes the columns of objects that are given one by one.

    Args:
        images: COCO's dictionaries.
        categories: COCO's dictionaries.
    """

    def __init__(self, images: Sequence[dict], categories: Sequence[dict]):
        self._images = images
        self._place_of_image = {image["id"]: place for place, image in enumerate(images)}
        self._place_of_category = {category["id"]: place for place, category in enumerate(categories)}
        self._image, self._category, self._crowd, self._mask = array("i"), array("i"), array("B"), array("B")
        self._box, self._area, self._numbers = array("d"), array("d"), array("d")
        self._parts, self._ends, self._letters = array("q", [0]), array("q", [0]), array("q", [0])
        self._text = bytearray()

    def __len__(self) -> int:
        return len(self._image)

    def add(self, item: Mapping[str, Any]) -> None:
        """Add an object.

        Args:
            item: COCO's dictionary. Its ``id`` is not taken.
        """
        self._image.append(self._place_of_image[item["image_id"]])
        self._category.append(self._place_of_category[item["category_id"]])
        self._crowd.append(item["iscrowd"])
        self._box.extend(item["bbox"])
        self._area.append(item["area"])
        self._mask.append(self._add_mask(item.get("segmentation")))
        self._parts.append(len(self._ends) - 1)
        self._letters.append(len(self._text))

    def _add_mask(self, mask: list | dict | None) -> int:
        if mask is None:
            return _NO_MASK
        if isinstance(mask, list):
            for polygon in mask:
                self._add_numbers(polygon)
            return _POLYGONS
        if isinstance(mask["counts"], list):
            self._add_numbers(mask["counts"])
            return _LENGTHS
        self._text += mask["counts"].encode()
        return _TEXT

    def _add_numbers(self, values: Iterable[float]) -> None:
        self._numbers.extend(values)
        self._ends.append(len(self._numbers))

    def columns(self, ids: Sequence[int]) -> "Columns":
        """The columns.

        Args:
            ids: of the objects.
        """
        rows = [json.dumps(image).encode() for image in self._images]
        image = _array(self._image, "<i4")
        counts = np.bincount(image, minlength=len(rows))
        made = {
            "ids": np.array(ids, "<i8"),
            "image": image,
            "category": _array(self._category, "<i4"),
            "crowd": _array(self._crowd, "|u1"),
            "box": _array(self._box, "<f8").reshape(-1, 4),
            "area": _array(self._area, "<f8"),
            "mask": _array(self._mask, "|u1"),
            "parts": _array(self._parts, "<i8"),
            "ends": _array(self._ends, "<i8"),
            "numbers": _array(self._numbers, "<f8"),
            "letters": _array(self._letters, "<i8"),
            "text": np.frombuffer(bytes(self._text), "|u1"),
            "by_image": np.argsort(image, kind="stable").astype("<i4"),
            "first": np.concatenate([[0], np.cumsum(counts)]).astype("<i8"),
            "size": np.array([[row["height"], row["width"]] for row in self._images], "<i4").reshape(-1, 2),
            "image_ends": np.cumsum([0, *map(len, rows)]).astype("<i8"),
            "image_text": np.frombuffer(b"".join(rows), "|u1"),
        }
        return Columns(made)


def _array(values: array, kind: str) -> np.ndarray:
    return np.frombuffer(values, kind) if values else np.zeros(0, kind)


class Columns:
    """The images and the objects of an annotation file.

    Args:
        arrays: those that :class:`ColumnsMaker` makes, or a file of them.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray] | ArrayFile):
        self._source = arrays

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays by their names."""
        return self._source.arrays if isinstance(self._source, ArrayFile) else self._source

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.arrays["size"])

    def image(self, place: int) -> dict[str, Any]:
        """COCO's dictionary of an image.

        Args:
            place: its place among the images.
        """
        start, end = self.arrays["image_ends"][place : place + 2].tolist()
        found: dict[str, Any] = json.loads(self.arrays["image_text"][start:end].tobytes())
        return found

    def rows_of(self, place: int) -> list[int]:
        """The rows of the objects of an image, in the order of the file."""
        start, end = self.arrays["first"][place : place + 2].tolist()
        rows: list[int] = self.arrays["by_image"][start:end].tolist()
        return rows

    def __len__(self) -> int:
        return len(self.arrays["ids"])

    @property
    def masks(self) -> int:
        """The number of objects that have a mask."""
        return int(np.count_nonzero(self.arrays["mask"]))

    def has_mask(self, row: int) -> bool:
        """Whether an object has a mask."""
        return bool(self.arrays["mask"][row])

    def with_objects(
        self,
        wanted: np.ndarray,  # [categories] bool
        only_masks: bool,
    ) -> np.ndarray:  # [images] bool
        """Which images have an object of the wanted categories, perhaps only of the objects that have a mask."""
        objects = wanted[self.arrays["category"]]
        if only_masks:
            objects &= self.arrays["mask"] != _NO_MASK
        found = np.zeros(self.images, bool)
        found[self.arrays["image"][objects]] = True
        return found

    def item(self, row: int, image: Mapping[str, Any], categories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """COCO's dictionary of an object.

        Args:
            row: of the object.
            image: the dictionary of its image.
            categories: the dictionaries of all categories.
        """
        arrays = self.arrays
        found = {
            "id": int(arrays["ids"][row]),
            "image_id": image["id"],
            "category_id": categories[arrays["category"][row]]["id"],
            "bbox": arrays["box"][row].tolist(),
            "area": float(arrays["area"][row]),
            "iscrowd": int(arrays["crowd"][row]),
        }
        if (kind := arrays["mask"][row]) != _NO_MASK:
            found["segmentation"] = self._mask_of(row, kind, image)
        return found

    def _mask_of(self, row: int, kind: int, image: Mapping[str, Any]) -> list | dict:
        arrays = self.arrays
        if kind == _TEXT:
            start, end = arrays["letters"][row : row + 2].tolist()
            return {
                "size": [image["height"], image["width"]],
                "counts": arrays["text"][start:end].tobytes().decode(),
            }
        first, last = arrays["parts"][row : row + 2].tolist()
        ends = arrays["ends"][first : last + 1].tolist()
        lists = [arrays["numbers"][start:end].tolist() for start, end in itertools.pairwise(ends)]
        if kind == _POLYGONS:
            return lists
        return {"size": [image["height"], image["width"]], "counts": [int(length) for length in lists[0]]}
