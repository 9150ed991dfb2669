"""Images with their classes in a file, several classes for an image if need be."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ssm_core.errors import ConfigError, DataError, nearest
from ssm_train.data.classes import check_classes, listed
from ssm_train.data.datasets.base import Transform
from ssm_train.data.datasets.folds import Fold
from ssm_train.data.datasets.image_files import ImageFiles
from ssm_train.data.images import Mode
from ssm_train.data.inside import check_inside
from ssm_train.registry import DATASETS


class _Row(NamedTuple):
    place: str  # for messages
    image: str
    labels: list[str]


@DATASETS.register_module()
class ImageList(ImageFiles):
    """Images that a CSV or JSON file lists with the names of their classes.

    A CSV file has a line of titles and the columns ``image`` and ``labels``, with ``;`` between the names of several
    classes. What has a comma in it is between double quotes. A JSON file is a list of
    ``{"image": "a.jpg", "labels": ["cat", "dog"]}``, or with ``"labels": "cat"`` for one class.

    Args:
        transform: see :class:`ImageDataset`.
        file: the list, ``.csv`` or ``.json``.
        root: the folder that the images' paths start from; the folder of the file by default. No path leads outside.
        classes: names of the classes in the order of their numbers; by default all names of the file, sorted. Name them
            where one of the files could lack a class.
        multi_label: whether an image can have several classes or none. The model then needs ``multi_label=True`` too.
        mode: see :class:`ImageFolder`.
        unreadable: see :class:`ImageDataset`.
        channels: see :class:`ImageFolder`.
        value_range: see :class:`ImageFolder`.
        fold: see :class:`ImageFolder`.

    Raises:
        DataError: the file is missing or damaged, is empty, or names an unknown class or an image outside of ``root``.
        ConfigError: ``file`` is neither, or ``classes``, ``mode``, ``channels``, ``value_range`` or ``fold`` is wrong.
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
        given = None if classes is None else check_classes(classes)
        rows = list(_rows(Path(file)))
        names = sorted({name for row in rows for name in row.labels}) if given is None else given
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
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets write a byte order mark
        content = json.loads(text) if path.suffix == ".json" else _csv_rows(text, path)
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
        try:
            check_inside(image, place)
        except DataError as error:
            raise DataError(f"{error}: give root=, the folder that the names of the images start from") from None
        yield _Row(place, image, [name for name in labels if name])


def _csv_rows(text: str, path: Path) -> list[dict[str, str]]:
    # Cells may have line breaks. A quote that is not closed would take all that follows into its cell.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    titles = [title.strip() for title in next(reader, [])]
    if not text:
        return []
    if not {"image", "labels"} <= set(titles):
        raise DataError(
            f"the first line of {path} is {','.join(titles)!r:.100}, and has to name the columns image and labels, "
            "with commas between the columns"
        )
    twice = [title for title in ("image", "labels") if titles.count(title) > 1]
    if twice:
        raise DataError(f"the first line of {path} names the column {twice[0]} twice")
    rows, line = [], reader.line_num + 1
    try:
        for cells in reader:
            if any(cells[len(titles) :]):
                raise DataError(
                    f"line {line} of {path} has {len(cells)} fields for {len(titles)} columns ({', '.join(titles)}): "
                    "put what has a comma in it between double quotes, and ; between the names of several classes"
                )
            if cells:
                rows.append(dict(zip(titles, cells, strict=False)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"the row from line {line} of {path} on is no CSV ({error}): are its quotes in pairs?"
        ) from error
    return rows
