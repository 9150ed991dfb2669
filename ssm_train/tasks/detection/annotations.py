"""Reading annotation files in COCO's format, as other programs write them, once for training and for evaluation."""

import contextlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import MMLogger

from ssm_core.errors import ConfigError, DataError
from ssm_train.data import missing
from ssm_train.data.source_mark import SourceMark, marked
from ssm_train.tasks.detection.annotated_images import AnnotatedImages, read_images
from ssm_train.tasks.detection.categories import Categories, read_categories
from ssm_train.tasks.detection.columns import Columns, ColumnsMaker
from ssm_train.tasks.detection.masks import measure_mask, read_mask
from ssm_train.tasks.detection.tally import Finding, Tally
from ssm_train.tasks.detection.values import Key, flag, is_nothing, key, number, numbers

BadAnnotations = Literal["skip", "raise"]


@dataclass(frozen=True)
class CocoAnnotations:
    """The usable content of an annotation file.

    Attributes:
        columns: the images and the objects. Each object belongs to one of the images and of the categories. Its box
            reaches into the image, and its mask has pixels in it.
        categories: COCO's dictionaries, with ``id`` and ``name``. No name is there twice.
        classes: names of the categories that are classes, in the file's order.
        source: the file.
        only_masks: whether the objects are those that have a mask.
    """

    columns: Columns
    categories: list[dict]
    classes: list[str]
    source: str | Path
    only_masks: bool = False

    @property
    def images(self) -> list[dict]:
        """COCO's dictionaries of all images, with ``id``, ``file_name``, ``height`` and ``width``, made anew."""
        return [self.columns.image(place) for place in range(self.columns.images)]

    @property
    def annotations(self) -> list[dict]:
        """COCO's dictionaries of all objects in the order of the file, made anew.

        They have ``id`` (from 1 on), ``image_id``, ``category_id``, ``bbox``, ``area``, ``iscrowd`` and, if they have a
        mask, ``segmentation``.
        """
        return self._annotations(self.images)

    def image(self, place: int) -> tuple[dict, list[dict]]:
        """COCO's dictionaries of an image and of its objects.

        Args:
            place: of the image among all.
        """
        image = self.columns.image(place)
        rows = [row for row in self.columns.rows_of(place) if not self.only_masks or self.columns.has_mask(row)]
        return image, [self.columns.item(row, image, self.categories) for row in rows]

    def with_objects(self, categories: Sequence[Key]) -> np.ndarray:  # [images] bool
        """Which images have an object of some categories.

        Args:
            categories: their ids.
        """
        wanted = [category["id"] in set(categories) for category in self.categories]
        return self.columns.with_objects(np.array(wanted, bool), self.only_masks)

    def category_ids(self, classes: Sequence[str]) -> list[Key]:
        """The file's ids of some classes.

        Args:
            classes: their names.

        Raises:
            DataError: the file has no category of a name.
        """
        known = {category["name"]: category["id"] for category in self.categories}
        unknown = [name for name in classes if name not in known]
        if unknown:
            raise DataError(f"{self.source} has no category {unknown[0]!r}, only {', '.join(known)}")
        return [known[name] for name in classes]

    def with_masks(self) -> "CocoAnnotations":
        """The annotations without the objects that have no mask, which are counted in a warning.

        Raises:
            DataError: there are objects, and none has a mask.
        """
        count, kept = len(self.columns), self.columns.masks
        if count and not kept:
            raise DataError(_no_masks(self.source, count))
        if kept < count:
            MMLogger.get_current_instance().warning(
                f"{count - kept} of {count} objects of {self.source} have no mask and are left out"
            )
        return replace(self, only_masks=True)

    def as_coco(self, number_of: Mapping[Key, Key]) -> COCO:
        """The objects of some categories in pycocotools' form.

        Args:
            number_of: the number that each of these categories gets, by its id in the file.
        """
        found, images = COCO(), self.images
        found.dataset = {
            "images": images,
            "annotations": [
                {**item, "category_id": number_of[item["category_id"]]}
                for item in self._annotations(images)
                if item["category_id"] in number_of
            ],
            "categories": [
                {**item, "id": number_of[item["id"]]} for item in self.categories if item["id"] in number_of
            ],
        }
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            found.createIndex()
        return found

    def _annotations(self, images: Sequence[dict]) -> list[dict]:
        columns = self.columns
        rows = [row for row in range(len(columns)) if not self.only_masks or columns.has_mask(row)]
        places = columns.arrays["image"][rows].tolist()
        return [columns.item(row, images[place], self.categories) for row, place in zip(rows, places, strict=True)]


@dataclass(frozen=True)
class ReadFile:
    """What came of reading an annotation file.

    Attributes:
        content: what can be used.
        mark: what the file is known by.
        findings: what was said about it.
        folders: see :meth:`.ImageNames.seen`.
        measured: names of the images whose sizes were read from them, if that was possible.
    """

    content: CocoAnnotations
    mark: SourceMark
    findings: list[Finding]
    folders: dict[str, str]
    measured: list[str]


def _no_masks(source: str | Path, count: int) -> str:
    return (
        f"the config wants masks, and none of the {count} annotations of {source} has a sound one: take a detector of "
        "boxes, such as Faster R-CNN, or an annotation file with masks"
    )


def read_annotations(
    path: str | Path, bad_annotations: BadAnnotations = "skip", folder: str | None = None, masks: bool = False
) -> CocoAnnotations:
    """:func:`read_file` for those who want the content alone."""
    return read_file(path, bad_annotations, folder, masks).content


def read_file(
    path: str | Path, bad_annotations: BadAnnotations = "skip", folder: str | None = None, masks: bool = False
) -> ReadFile:
    """Read an annotation file. What other programs write in another form is understood where it can be.

    Numbers may be texts, and ids whole numbers or texts, from 0 or repeated. A missing ``area``, ``bbox`` or size of an
    image is computed from the mask, the box or the image. Parts of a mask that are no polygons are dropped, see
    :func:`.read_mask`. An object is left out in these cases:

    - The file does not have its image or its category.
    - It has neither a box of at least a pixel that reaches into the image, nor a mask.
    - ``iscrowd`` or ``ignore`` is neither 0 nor 1. An object to ignore counts as a crowd.
    - ``masks`` is set and it has no sound mask.
    - It is listed again: with the same id, or with an image that is listed again.

    Args:
        path: the JSON file.
        bad_annotations: ``"skip"`` leaves out what cannot be used and counts it, by kind, in a warning. ``"raise"``
            stops at the first.
        folder: where the images are. Names are then matched to its files, and missing sizes read from them.
        masks: whether only objects with a mask are of use.

    Raises:
        ConfigError: ``bad_annotations`` is something else.
        DataError: the file is missing, damaged or not in COCO's format. More than half of its images or annotations
            cannot be used, or no object has a mask and ``masks`` is set. Or something cannot be used and ``"raise"`` is
            set.
    """
    if bad_annotations not in ("skip", "raise"):
        raise ConfigError(f"bad_annotations is 'skip' or 'raise', not {bad_annotations!r}")
    content, mark = _read_json(Path(path))
    tally = Tally(path, bad_annotations == "raise")
    entries = content["annotations"]
    images = read_images(content["images"], entries, folder, tally)
    categories = read_categories(content["categories"], entries, tally)
    reader = _ObjectReader(images, categories, tally, Counter(_id_of(entry) for entry in entries), masks)
    objects, ids = ColumnsMaker(images.kept, categories.kept), []
    for place, entry in enumerate(entries):
        if (found := reader.read(entry, place)) is not None:
            objects.add(found)
            ids.append(found["id"])
        entries[place] = None  # its memory is free for the columns
    if reader.without_mask and not ids:
        raise DataError(_no_masks(path, len(entries)))
    tally.check("annotation", "annotations", len(entries))
    columns = objects.columns(_sound_ids(ids, tally))
    tally.say_what_was_mended()
    usable = CocoAnnotations(columns, categories.kept, categories.classes, path)
    return ReadFile(usable, mark, tally.findings, images.folders, images.measured)


def _read_json(path: Path) -> tuple[dict[str, list], SourceMark]:
    try:
        written, mark = marked(path)
        content = json.loads(written)
    except FileNotFoundError:
        raise missing.no_annotation_file(path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the annotation file {path}: {' '.join(str(error).split())}") from None
    if isinstance(content, dict) and is_nothing(content.get("annotations")):
        content["annotations"] = []  # files of test sets have no annotations
    for name in ("images", "annotations", "categories"):
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{path} is no COCO annotation file: it has no list {name!r}")
        if not entries and name != "annotations":
            raise DataError(f"{path} is empty: it has no {name}")
    return content, mark


class _ObjectReader:
    """Reads the entries of ``annotations``."""

    def __init__(self, images: AnnotatedImages, categories: Categories, tally: Tally, ids: Counter, masks: bool):
        self.without_mask = 0  # number of objects that are left out because of their masks
        self._masks = masks
        self._images = images
        self._categories = categories
        self._tally = tally
        self._ids = ids
        self._seen: set[int] = set()  # of the objects that may be listed again

    def read(self, entry: Any, place: int) -> dict | None:
        """The object of an entry; None if it is left out.

        Args:
            entry: the entry.
            place: its index.
        """
        name = f"at place {place}" if _id_of(entry) is None else entry["id"]
        found = self._understood(entry, name)
        if isinstance(found, str):
            self._tally.leave_out("annotation", name, found)
            return None
        return found

    def _understood(self, entry: Any, name: Any) -> dict | str:
        """The object of an entry, or what is wrong with the entry, as words that follow "with"."""
        if not isinstance(entry, dict):
            return "no fields"
        image = self._images.find(entry.get("image_id"))
        if image is None:
            return "no image_id" if is_nothing(entry.get("image_id")) else "an unknown image"
        category = self._categories.find(entry.get("category_id"))
        if category is None:
            return "no category_id" if is_nothing(entry.get("category_id")) else "an unknown category"
        crowd, ignored = flag(entry.get("iscrowd")), flag(entry.get("ignore"))
        if crowd is None or ignored is None:
            return "another iscrowd or ignore than 0 and 1"
        height, width = image["height"], image["width"]
        box = numbers(entry.get("bbox"))
        fault = _fault_of_box(entry.get("bbox"), box, height, width)
        mask, stray = read_mask(entry.get("segmentation"), None if fault else box, height, width)
        if mask is None and self._masks:
            self.without_mask += 1
            return "a mask that is missing, malformed or of another size"
        area = number(entry.get("area"))
        measured = measure_mask(mask, height, width) if mask is not None and (fault or not area or area < 0) else None
        if fault and measured is None:
            return fault
        if fault:
            self._tally.mend("boxes made from masks", name)
            box = measured[0]
        if not area or area < 0:
            self._tally.mend("areas made from masks or boxes", name)
            area = box[2] * box[3] if measured is None else measured[1]
        if mask is None and not _is_empty(entry.get("segmentation")):
            self._tally.mend("masks that cannot be read and are not used", name)
        if stray:
            self._tally.mend("masks with a part that is no polygon and is dropped", name)
        found = {"id": _id_of(entry), "image_id": image["id"], "category_id": category["id"], "bbox": box}
        found |= {"area": area, "iscrowd": max(crowd, ignored)}
        if mask is not None:
            found["segmentation"] = mask
        return "a place further up" if self._is_listed_again(found) else found

    def _is_listed_again(self, found: dict) -> bool:
        merged = found["image_id"] in self._images.merged
        if not merged and (found["id"] is None or self._ids[found["id"]] == 1):
            return False
        said = {**found, "id": None if merged else found["id"]}
        own = hash(repr(sorted(said.items())))
        again = own in self._seen
        self._seen.add(own)
        return again


def _id_of(entry: Any) -> Key | None:
    return key(entry.get("id")) if isinstance(entry, dict) else None


def _is_empty(value: Any) -> bool:
    return is_nothing(value) or value in ([], [[]], {}, "[]", "{}")


def _fault_of_box(written: Any, box: Sequence[float] | None, height: int, width: int) -> str | None:
    """What is wrong with a box, as words that follow "with", or None if it is good."""
    if box is None or len(box) != 4:
        return "no bbox" if _is_empty(written) else "a box that is not four finite numbers"
    left, top, wide, high = box
    inside_x = min(left + wide, width) - max(left, 0)
    inside_y = min(top + high, height) - max(top, 0)
    if min(wide, high, inside_x, inside_y) <= 0:
        return "a box without area in the image"
    if min(wide, high) < 1:
        return "a box of less than a pixel"
    if min(left + width, top + height) < 0 or left + wide > 2 * width or top + high > 2 * height:
        return "a box that reaches far out of the image"
    return None


def _sound_ids(ids: list[Key | None], tally: Tally) -> Sequence[int]:
    """Numbers from 1 on unless the ids are such numbers: pycocotools takes 0 for no object."""
    whole = [number_of for number_of in ids if isinstance(number_of, int) and number_of > 0]
    if len(set(whole)) == len(ids):
        return whole
    for own in ids:
        tally.mend("annotations with new ids", own)
    return range(1, len(ids) + 1)
