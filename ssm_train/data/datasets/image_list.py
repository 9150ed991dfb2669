"""Images with their classes in a file, several classes for an image if need be."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ssm_core.errors import ConfigError, DataError, nearest
from ssm_train.data.classes import listed
from ssm_train.data.datasets.base import Transform
from ssm_train.data.datasets.folds import Fold
from ssm_train.data.datasets.image_files import ImageFiles
from ssm_train.data.images import Mode
from ssm_train.registry import DATASETS


class _Row(NamedTuple):
    place: str  # for messages
    image: str
    labels: list[str]


@DATASETS.register_module()
class ImageList(ImageFiles):
    """Images that a CSV or JSON file lists with the names of their classes.

    A CSV file has a line of titles and the columns ``image`` and ``labels``, with ``;`` between the names of several
    classes. A JSON file is a list of ``{"image": "a.jpg", "labels": ["cat", "dog"]}``, or with ``"labels": "cat"`` for
    one class.

    Args:
        transform: see :class:`ImageDataset`.
        file: the list, ``.csv`` or ``.json``.
        root: the folder that the images' paths start from; the folder of the file by default.
        classes: names of the classes in the order of their numbers; by default all names of the file, sorted. Name them
            where one of the files could lack a class.
        multi_label: whether an image can have several classes or none. The model then needs ``multi_label=True`` too.
        mode: see :class:`ImageFolder`.
        unreadable: see :class:`ImageDataset`.
        channels: see :class:`ImageFolder`.
        value_range: see :class:`ImageFolder`.
        fold: see :class:`ImageFolder`.

    Raises:
        DataError: the file is missing or damaged, is empty, or names an unknown class.
        ConfigError: ``file`` is neither, or ``mode``, ``channels``, ``value_range`` or ``fold`` is wrong.
    """

    def __init__(
        self,
        transform: dict | Transform,
        file: str,
        root: str | None = None,
        classes: Sequence[str] | None = None,
        multi_label: bool = True,
        mode: Mode = "RGB",
        unreadable: Literal["skip", "raise"] = "skip",
        channels: int | None = None,
        value_range: Sequence[float] | None = None,
        fold: Fold | None = None,
    ):
        rows = list(_rows(Path(file)))
        names = sorted({name for row in rows for name in row.labels}) if classes is None else list(classes)
        if not rows or not names:
            raise DataError(f"{file} lists no image with a class")
        number_of = {name: number for number, name in enumerate(names)}
        for row in rows:
            unknown = [name for name in row.labels if name not in number_of]
            if unknown:
                raise DataError(
                    f"{row.place} has the class {unknown[0]!r}, which is none of the classes {listed(names)}"
                    f"{nearest(unknown[0], names)}"
                )
            if not multi_label and len(row.labels) != 1:
                raise DataError(f"{row.place} has {len(row.labels)} classes and multi_label is False: give it one")
        labels = [sorted({number_of[name] for name in row.labels}) for row in rows]
        folder = Path(file).parent if root is None else Path(root)
        paths = [str(folder / row.image) for row in rows]
        own: list[Any] = labels if multi_label else [label for (label,) in labels]
        super().__init__(paths, own, names, transform, mode, unreadable, channels, value_range, fold)


def _rows(path: Path) -> Iterator[_Row]:
    if path.suffix not in (".csv", ".json"):
        raise ConfigError(f"a list of images is a file .csv or .json, not {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
        content = json.loads(text) if path.suffix == ".json" else _csv_rows(text.splitlines(), path)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"cannot read the list of images {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, list):
        raise DataError(f"{path} is no list of images with their labels")
    for number, row in enumerate(content, start=1):
        place = f"row {number} of {path}"
        image, labels = (row.get("image"), row.get("labels")) if isinstance(row, dict) else (None, None)
        if isinstance(labels, str):
            labels = [name.strip() for name in labels.split(";")] if path.suffix == ".csv" else [labels]
        if not (isinstance(image, str) and image and isinstance(labels, list) and all(type(n) is str for n in labels)):
            raise DataError(f"{place} has no image and labels: it needs both, the labels as names")
        yield _Row(place, image, [name for name in labels if name])


def _csv_rows(lines: list[str], path: Path) -> list[dict[str, str]]:
    if not lines:
        return []
    titles = [title.strip() for title in next(csv.reader(lines), [])]
    if not {"image", "labels"} <= set(titles):
        raise DataError(
            f"the first line of {path} is {lines[0]!r:.100}, and has to name the columns image and labels, with commas "
            "between the columns"
        )
    return list(csv.DictReader(lines[1:], titles))
