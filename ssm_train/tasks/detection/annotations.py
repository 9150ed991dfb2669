"""Reading COCO annotation files and their faults, which would otherwise show up in the middle of a training."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmengine.logging import MMLogger

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.inside import check_inside
from ssm_train.tasks.detection.masks import is_mask

_MOST_PIXELS = 1 << 28  # of an image; mmdet makes masks of the size that the file says, before it reads the image
BadAnnotations = Literal["skip", "raise"]


@dataclass(frozen=True)
class CocoAnnotations:
    """The usable content of an annotation file.

    Attributes:
        images: COCO's dictionaries, with ``id``, ``file_name``, ``height`` and ``width``.
        annotations: COCO's dictionaries. Each belongs to an image and a category of the file, and its box reaches into
            the image.
        categories: COCO's dictionaries, with ``id`` and ``name``.
    """

    images: list[dict]
    annotations: list[dict]
    categories: list[dict]

    @property
    def classes(self) -> list[str]:
        """Names of the categories, in the file's order."""
        return [category["name"] for category in self.categories]


def read_annotations(path: str | Path, bad_annotations: BadAnnotations = "skip") -> CocoAnnotations:
    """Read an annotation file and leave out annotations that no training or evaluation can use.

    An annotation is bad in these cases:

    - It lacks a field, or has the id of another annotation.
    - The file does not have its image or its category.
    - Its box is not four finite numbers, has no area, or lies outside the image.
    - Its area is no finite number, or ``iscrowd`` is neither 0 nor 1.
    - Its mask is malformed, has another size than the image, or is missing although other annotations have masks. See
      :func:`.masks.is_mask`.

    A missing ``area`` or ``iscrowd`` is filled in.

    Args:
        path: the JSON file.
        bad_annotations: ``"skip"`` leaves bad annotations out and counts them, by kind, in a warning. ``"raise"`` stops
            at the first.

    Raises:
        ConfigError: ``bad_annotations`` is something else.
        DataError: the file is missing, damaged or not in COCO's format, or has a bad annotation and ``"raise"`` is set.
    """
    if bad_annotations not in ("skip", "raise"):
        raise ConfigError(f"bad_annotations is 'skip' or 'raise', not {bad_annotations!r}")
    content = _read_json(Path(path))
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    masks = any(isinstance(entry, dict) and "segmentation" in entry for entry in content["annotations"])
    sound: dict[Any, dict] = {}
    faults: dict[str, list[Any]] = {}
    for number, annotation in enumerate(content["annotations"]):
        fault = _fault(annotation, images, categories, masks) or (annotation["id"] in sound and "an id that is taken")
        if not fault:
            area = annotation["bbox"][2] * annotation["bbox"][3]
            sound[annotation["id"]] = {"area": area, "iscrowd": 0, **annotation}
            continue
        name = annotation.get("id", f"at place {number}") if isinstance(annotation, dict) else f"at place {number}"
        if bad_annotations == "raise":
            raise DataError(
                f"annotation {name} of {path} has {fault}: mend it, or set bad_annotations='skip' to leave it out"
            )
        faults.setdefault(fault, []).append(name)
    if faults:
        kinds = ", ".join(f"{len(names)} with {fault} (first: {names[0]})" for fault, names in faults.items())
        count = sum(map(len, faults.values()))
        MMLogger.get_current_instance().warning(
            f"{count} of {len(content['annotations'])} annotations of {path} are left out: {kinds}"
        )
    return CocoAnnotations(content["images"], list(sound.values()), content["categories"])


def _read_json(path: Path) -> dict[str, list]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"there is no annotation file {path}; `tree-ssm prepare-data --help` tells how to make or arrange it"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the annotation file {path}: {error}") from None
    if isinstance(content, dict):
        content.setdefault("annotations", [])  # files of test sets have no annotations
    needed = {"images": ("id", "file_name", "height", "width"), "annotations": (), "categories": ("id", "name")}
    for key, fields in needed.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{path} is no COCO annotation file: it has no list {key!r}")
        for entry in entries if fields else ():
            if not isinstance(entry, dict) or any(field not in entry for field in fields):
                raise DataError(f"{path} is no COCO annotation file: an entry of {key!r} lacks {' or '.join(fields)}")
        if key == "images":
            for entry in entries:
                check_inside(entry["file_name"], path)
                _check_size(entry, path)
        if fields and not entries:
            raise DataError(f"{path} is empty: it has no {key}")
        if fields and not all(_is_id(entry["id"]) for entry in entries):
            raise DataError(f"{path} is no COCO annotation file: an id of {key!r} is neither a number nor a text")
        if fields and len({entry["id"] for entry in entries}) < len(entries):
            raise DataError(f"{path} has two {key} of the same id")
    return content


def _check_size(image: dict, path: Path) -> None:
    size = image["height"], image["width"]
    if not all(_is_finite(n) and n >= 1 and n == int(n) for n in size) or math.prod(size) > _MOST_PIXELS:
        shown = " x ".join(f"{n!r:.20}" for n in reversed(size))
        raise DataError(
            f"{path} says that {image['file_name']} has {shown} pixels: sides are whole numbers, and an image has at "
            f"most {_MOST_PIXELS >> 20} megapixels"
        )


def _fault(annotation: Any, images: Mapping[Any, dict], categories: set, masks: bool) -> str | None:
    """What is wrong with an annotation, as words that follow "with", or None if it is good."""
    fields = ("id", "image_id", "category_id", "bbox")
    if not isinstance(annotation, dict) or any(field not in annotation for field in fields):
        return f"{', '.join(fields[:-1])} or {fields[-1]} missing"
    if not all(_is_id(annotation[field]) for field in fields[:-1]):
        return "an id that is neither a number nor a text"
    image = images.get(annotation["image_id"])
    if image is None:
        return "an unknown image"
    if annotation["category_id"] not in categories:
        return "an unknown category"
    box = annotation["bbox"]
    if not isinstance(box, Sequence) or len(box) != 4 or not all(_is_finite(value) for value in box):
        return "a box that is not four finite numbers"
    x, y, width, height = box
    inside_x = min(x + width, image["width"]) - max(x, 0)
    inside_y = min(y + height, image["height"]) - max(y, 0)
    if min(width, height, inside_x, inside_y) <= 0:
        return "a box without area in the image"
    if not _is_finite(annotation.get("area", 0)) or annotation.get("iscrowd", 0) not in (0, 1):
        return "an area that is no finite number, or another iscrowd than 0 and 1"
    sound = not masks or is_mask(annotation.get("segmentation"), int(image["height"]), int(image["width"]))
    return None if sound else "a mask that is missing, malformed or of another size"


def _is_finite(value: Any) -> bool:
    # A whole number can be too large for a float.
    return (isinstance(value, float) and math.isfinite(value)) or (isinstance(value, int) and abs(value) < 1 << 63)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | float | str)
