"""Reads the images of an annotation file: their ids, their files and their sizes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ssm_train.data.images import UNREADABLE, size_in_file
from ssm_train.tasks.detection.image_names import ImageNames, folded
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
        folders: see :meth:`.ImageNames.seen`.
        measured: names of the files that sizes were read from, and of those that had none.
    """

    merged: set[Key] = field(default_factory=set)
    folders: dict[str, str] = field(default_factory=dict)
    measured: list[str] = field(default_factory=list)


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
    names = ImageNames(folder)
    found = list(_entries(entries, annotations, names, tally))
    names_of_id, written_of_name = defaultdict(set), defaultdict(set)
    sizes: dict[str, tuple[int, int]] = {}
    for entry in found:
        names_of_id[entry.id].add(entry.name)
        written_of_name[entry.name].add(folded(entry.written.replace("\\", "/")))
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
            size = sizes.get(entry.name)
            if size is None:
                images.measured.append(entry.name)
                size = _size_in_file(folder, entry.name, tally)
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
    images.folders = names.seen()
    images.merged = {image["id"] for image in again}
    tally.check("image", "images", len(entries))
    return images


def _entries(entries: Iterable[Any], annotations: Sequence[Any], names: ImageNames, tally: Tally) -> Iterable[_Entry]:
    referred: set | None = None
    for place, content in enumerate(entries):
        written = content.get("file_name") if isinstance(content, dict) else None
        if not isinstance(written, str) or is_nothing(written):
            tally.leave_out("image", f"at place {place}", "no file_name")
            continue
        name = names.name_of(written, tally.path)
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
