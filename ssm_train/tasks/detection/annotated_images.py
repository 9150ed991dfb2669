"""Reads the images of an annotation file: their ids, their files and their sizes."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ssm_train.data.images import UNREADABLE, size_in_file
from ssm_train.data.inside import check_inside
from ssm_train.tasks.detection.listed import Listed
from ssm_train.tasks.detection.tally import Tally
from ssm_train.tasks.detection.values import Key, is_nothing, key, whole

_MOST_PIXELS = 1 << 28  # of an image; mmdet makes masks of the size that the file says, before it reads the image


@dataclass
class AnnotatedImages(Listed):
    """The images that can be used, with ``id``, ``file_name``, ``height`` and ``width``. A name is that of the file.

    The ids are all whole numbers or all texts.

    Attributes:
        merged: ids of the images that the file lists more than once.
    """

    merged: set[Key] = field(default_factory=set)


class _Entry(NamedTuple):
    id: Key
    written: str  # the name of the file in the annotation file
    name: str  # the path below the folder of the images
    content: dict


def read_images(
    entries: Sequence[Any], annotations: Sequence[Any], folder: str | None, tally: Tally
) -> AnnotatedImages:
    """Read ``images`` of an annotation file.

    An image that is listed twice is one. Ids that two images have are left out, since nobody knows whose annotations
    are whose. A size that is missing or impossible is read from the image.

    Args:
        entries: what the file has.
        annotations: those of the file. Some name the file of their image in place of an id.
        folder: where the images are; None if that is not known. Then no size can be read.
        tally: gets what is left out or filled in.

    Raises:
        DataError: a name leads outside of a folder that is not known, or see :meth:`.Tally.check`.
    """
    found = list(_entries(entries, annotations, _Files(folder), tally))
    names_of_id, written_of_name = defaultdict(set), defaultdict(set)
    sizes: dict[str, tuple[int, int]] = {}
    for entry in found:
        names_of_id[entry.id].add(entry.name)
        written_of_name[entry.name].add(_folded(entry.written.replace("\\", "/")))
        if (size := _written_size(entry.content)) is not None:
            sizes.setdefault(entry.name, size)
    images = AnnotatedImages()
    first: dict[str, dict] = {}
    again: list[dict] = []
    for entry in found:
        if len(names_of_id[entry.id]) > 1:
            tally.leave_out("image", entry.written, "the id of another image")
            continue
        if len(written_of_name[entry.name]) > 1:
            tally.leave_out("image", entry.written, "the file of another image")
            continue
        image = first.get(entry.name)
        if image is None:
            size = sizes.get(entry.name) or _size_in_file(folder, entry.name, tally)
            if size is None:
                tally.leave_out("image", entry.written, "a size that is missing or impossible")
                continue
            height, width = size
            image = {**entry.content, "file_name": entry.name, "height": height, "width": width}
            first[entry.name] = image
            images.kept.append(image)
        else:
            tally.mend("images listed again", entry.written)
            again.append(image)
        images.by_key[entry.id] = image
        images.by_name[entry.written] = images.by_name[entry.name] = image
    _make_ids_alike(images)
    images.merged = {image["id"] for image in again}
    tally.check("image", "images", len(entries))
    return images


def _entries(entries: Iterable[Any], annotations: Sequence[Any], files: "_Files", tally: Tally) -> Iterable[_Entry]:
    referred: set | None = None
    for place, content in enumerate(entries):
        written = content.get("file_name") if isinstance(content, dict) else None
        if not isinstance(written, str) or is_nothing(written):
            tally.leave_out("image", f"at place {place}", "no file_name")
            continue
        name = files.name_of(written, tally.path)
        if name is None:
            tally.leave_out("image", written, "a name outside of the folder of the images")
            continue
        number = key(content.get("id"))
        if number is None:
            if referred is None:
                referred = {a.get("image_id") for a in annotations if isinstance(a, dict) and _is_text(a)}
            if annotations and written not in referred:
                tally.leave_out("image", written, "no id")
                continue
            number = written
        yield _Entry(number, written, name, content)


def _is_text(annotation: dict) -> bool:
    return isinstance(annotation.get("image_id"), str)


def _written_size(content: dict) -> tuple[int, int] | None:
    height, width = whole(content.get("height")), whole(content.get("width"))
    if height is None or width is None or min(height, width) < 1 or height * width > _MOST_PIXELS:
        return None
    return height, width


def _size_in_file(folder: str | None, name: str, tally: Tally) -> tuple[int, int] | None:
    try:
        size = None if folder is None else size_in_file(Path(folder, name))
    except UNREADABLE:
        return None
    if size is not None:
        tally.mend("sizes of images read from their files", name)
    return size


def _make_ids_alike(images: AnnotatedImages) -> None:
    """Make the ids all whole numbers or all texts, as most are written: pycocotools sorts them."""
    first = {id(image): number for number, image in reversed(images.by_key.items())}  # of the ids of an image
    for image in images.kept:
        written = image.get("id")
        image["id"] = written.strip() if isinstance(written, str) and not is_nothing(written) else first[id(image)]
    if any(isinstance(image["id"], str) for image in images.kept):
        for image in images.kept:
            image["id"] = str(image["id"])


def _folded(name: str) -> str:
    """A name without what may differ between two file systems: the case of letters and the form of accents."""
    return unicodedata.normalize("NFC", name).casefold()


class _Files:
    """Finds the files that an annotation file names, which may have been written on another computer."""

    def __init__(self, folder: str | None):
        self._folder = folder
        self._listed: dict[str, tuple[set[str], dict[str, str]]] = {}

    def name_of(self, written: str, source: Any) -> str | None:
        """The path of a file below the folder. If there is no such file, the path as it is written.

        Args:
            written: the name in the annotation file. It may have backslashes, be absolute, or have other letters in
                upper case than the file.
            source: the annotation file, for messages.

        Returns:
            The path; None if it would lead outside.

        Raises:
            DataError: it would lead outside of a folder that is not known.
        """
        parts = [part for part in written.replace("\\", "/").split("/") if part not in ("", ".")]
        outside = ".." in parts or "\0" in written or os.path.isabs(written) or not parts
        if not outside and (found := self._find([written])):
            return found
        after = len(parts) - parts[::-1].index("..") if ".." in parts else 0
        for start in range(after, len(parts)):
            if found := self._find(parts[start:]):
                return found
        if outside:
            return None if self._folder is not None else check_inside(written, source)
        return "/".join(parts)

    def _find(self, parts: Sequence[str]) -> str | None:
        """The path of a file, if the folder has it, perhaps with other upper-case letters."""
        place = ""
        for part in [piece for written in parts for piece in written.split("/")]:
            names, folded = self._list(place)
            own = part if part in names else folded.get(_folded(part))
            if own is None:
                return None
            place = f"{place}/{own}" if place else own
        return place

    def _list(self, place: str) -> tuple[set[str], dict[str, str]]:
        """The names in a sub-folder, and the same by their folded form."""
        if place not in self._listed:
            try:
                names = set() if self._folder is None else set(os.listdir(os.path.join(self._folder, place)))
            except OSError:  # it is a file, or not there
                names = set()
            self._listed[place] = names, {_folded(name): name for name in sorted(names, reverse=True)}
        return self._listed[place]
