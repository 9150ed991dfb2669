"""Figures of every class and the confusion matrix, as files and as a picture."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ssm_core.visualization.figures import as_written
from ssm_train.runtime.files import write_text_atomically

_NAMED = 40  # a matrix of at most this many classes has their names and its numbers written into the picture
_LONGEST = 24  # characters of a name in a picture


@dataclass(frozen=True)
class ClassReport:
    """What a metric knows of every class.

    A metric with an attribute ``report`` of this type has its files written by :class:`.ClassReportHook`.

    Attributes:
        classes: names of the classes.
        columns: a value for every class by the name of the figure; NaN where it is undefined.
        confusion: number of samples by true class (row) and predicted class (column); None if there is no such number.
        background: whether the matrix has one more row and column, of what is no object.
    """

    classes: Sequence[str]
    columns: Mapping[str, Sequence[float]]
    confusion: np.ndarray | None = None  # [N, N] int64
    background: bool = False

    @property
    def sides(self) -> list[str]:
        """Names of the rows and columns of the matrix."""
        return [*self.classes, *(["(background)"] if self.background else [])]

    def write(self, folder: Path, name: str) -> None:
        """Write ``<name>_classes.csv`` and ``<name>_confusion.csv``; without a matrix the first alone.

        Args:
            folder: the folder, which is made.
            name: beginning of the files' names.
        """
        rows = zip(self.classes, *(map(_cell, column) for column in self.columns.values()), strict=True)
        write_text_atomically(folder / f"{name}_classes.csv", as_csv([["class", *self.columns], *rows]))
        if self.confusion is not None:
            table = ([side, *row] for side, row in zip(self.sides, self.confusion.tolist(), strict=True))
            write_text_atomically(
                folder / f"{name}_confusion.csv", as_csv([["true \\ predicted", *self.sides], *table])
            )

    def draw(self) -> Figure | None:
        """Draw the confusion matrix, each row as shares of its class; None if there is no matrix."""
        if self.confusion is None:
            return None
        counts = self.confusion
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        named = len(counts) <= _NAMED
        side = max(4.0, 0.45 * len(counts)) if named else 10.0
        figure = Figure(figsize=(side + 2, side + 1), layout="constrained")
        axes = figure.subplots()
        figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), ax=axes, label="share of the true class")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if named:
            names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in self.sides]
            names = [as_written(name) for name in names]
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
            for row, column in zip(*np.nonzero(counts), strict=True):
                colour = "white" if shares[row, column] > 0.5 else "black"
                text = _short(int(counts[row, column]))
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        return figure


def figures_of(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and IoU of every class in percent, NaN where a class has neither samples nor predictions.

    Args:
        confusion: [N, N] number of samples by true class (row) and predicted class (column).
    """
    hits, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "precision": hits / predicted,
            "recall": hits / true,
            "f1": 2 * hits / (true + predicted),
            "iou": hits / (true + predicted - hits),
        }
    return {name: 100 * values for name, values in found.items()}


def as_csv(rows: Iterable[Iterable[object]]) -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.6g}"  # numbers of pixels have many digits


def _short(count: int) -> str:
    """A number with at most four characters and a suffix, such as 9999, 12k and 3M."""
    for limit, divisor, suffix in ((10**4, 1, ""), (10**7, 10**3, "k"), (10**10, 10**6, "M")):
        if count < limit:
            return f"{count // divisor}{suffix}"
    return f"{count // 10**9}G"
