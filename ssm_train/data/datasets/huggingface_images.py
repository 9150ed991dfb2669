"""Images in datasets of Hugging Face."""

import logging
import os
from array import array
from collections.abc import Sequence
from typing import Any, Literal

from mmengine.logging import print_log

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.datasets.base import Transform
from ssm_train.data.datasets.folds import Fold
from ssm_train.data.datasets.image_files import EncodedImages
from ssm_train.data.datasets.label_values import number_labels
from ssm_train.data.faults import Faults, Unusable
from ssm_train.data.huggingface import column_of, load_table
from ssm_train.data.images import Mode
from ssm_train.data.pixels import ImageBytes
from ssm_train.registry import DATASETS


@DATASETS.register_module()
class HuggingFaceImages(EncodedImages):
    """Labelled images of a dataset of Hugging Face, by its name on the Hub or in a local folder.

    The images are decoded as in all other datasets of this project, and not by the package datasets. Rows without a
    usable label are left out, counted and named. A column with lists of labels is of images with several classes; the
    model then needs ``multi_label=True``.

    Args:
        transform: see :class:`ImageDataset`.
        path: see :func:`.load_table`.
        split: see :func:`.load_table`.
        subset: see :func:`.load_table`.
        revision: see :func:`.load_table`. Give a commit, so that a run can be resumed after the dataset has changed.
        image: the column of the images; by default the only one of the type ``Image``, or ``image``.
        label: the column of the labels; by default the only one of the type ``ClassLabel``, or ``label`` or ``labels``.
        classes: names of the classes in the order of their numbers, if not those of the dataset; see
            :func:`.number_labels`.
        mode: see :class:`.ImageFolder`.
        unreadable: see :class:`ImageDataset`. ``"raise"`` also stops at a row that would be left out.
        channels: see :class:`.ImageFolder`.
        value_range: see :class:`.ImageFolder`.
        fold: see :class:`.ImageFolder`.

    Raises:
        MissingPackageError: the package datasets is not installed.
        DataError: there is no such dataset or split, or more than half of its rows cannot be used.
        ConfigError: a column is missing or has another type, or ``mode``, ``channels``, ``value_range`` or ``fold`` is
            wrong.
    """

    def __init__(
        self,
        transform: dict | Transform,
        path: str,
        split: str = "train",
        subset: str | None = None,
        revision: str | None = None,
        image: str | None = None,
        label: str | None = None,
        classes: Sequence[str] | None = None,
        mode: Mode = "RGB",
        unreadable: Literal["skip", "raise"] = "skip",
        channels: int | None = None,
        value_range: Sequence[float] | None = None,
        fold: Fold | None = None,
    ):
        table = load_table(path, split, subset, revision)
        self._place = f"{path}:{split}"
        self._column = column_of(table, image, ("Image",), ("image",), "image")
        labels = column_of(table, label, ("ClassLabel",), ("label", "labels"), "label")
        self._table = table.select_columns([self._column]).cast_column(self._column, _undecoded(table, self._column))
        values, names, multi_label = _labels(table, labels)
        numbered = number_labels(values, names if classes is None else classes, multi_label, self._place)
        faults, good = Faults("rows", self._place), []
        for row, own in enumerate(numbered.labels):
            if not isinstance(own, Unusable):
                good.append(row)
            elif unreadable == "raise":
                raise DataError(f"{self._place}[{row}] {own}; unreadable='skip' leaves such rows out")
            else:
                faults.add(own.kind, f"{self._place}[{row}] {own}")
        faults.check(len(values))
        if not good:
            raise DataError(f"{self._place} has no rows")
        for line in faults.lines(len(values)):
            print_log(line, logger="current", level=logging.WARNING)
        super().__init__(
            [numbered.labels[row] for row in good], numbered.classes, transform, mode, unreadable, channels,
            value_range, fold,
        )  # fmt: skip
        self._rows = array("q", (good[place] for place in self.chosen))

    def source(self, index: int) -> str | ImageBytes:
        """The content of an image, or the file that its row names."""
        value = self._table[self._rows[index]][self._column]
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if content is not None:
            return ImageBytes(path or self.name(index), content)
        if path is None:
            raise ValueError("its row has no image")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"its row names {path!r:.200}, and there is no such file")
        return str(path)

    def name(self, index: int) -> str:
        """The dataset, its split and the row."""
        return f"{self._place}[{self._rows[index]}]"


def _undecoded(table: Any, column: str) -> Any:
    """The type of a column of images whose bytes are left as they are."""
    import datasets

    feature = table.features[column]
    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    # Tables that other programs wrote have bytes, alone or beside the name of a file.
    if getattr(feature, "dtype", None) in ("binary", "large_binary") or (
        isinstance(feature, dict) and "bytes" in feature
    ):
        return feature
    raise ConfigError(f"the column {column!r} has the type {type(feature).__name__}, and images are Image or bytes")


def _labels(table: Any, column: str) -> tuple[list[Any], list[str] | None, bool]:
    """The labels of all rows, the names of the classes if the dataset has them, and whether a row has several."""
    import datasets

    feature = table.features[column]
    multi_label = isinstance(feature, datasets.List | datasets.LargeList)
    kind = feature.feature if multi_label else feature
    if not isinstance(kind, datasets.ClassLabel | datasets.Value):
        raise ConfigError(f"the column {column!r} has the type {type(kind).__name__}, which is none of labels")
    values = table.select_columns([column])[:][column]
    if not isinstance(kind, datasets.ClassLabel):
        return values, None, multi_label
    names = list(kind.names)

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(one) for one in value]
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else value

    return [named(value) for value in values], names, multi_label
