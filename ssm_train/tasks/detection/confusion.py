"""Which classes a detector takes for each other."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as codec

_OVERLAP = 0.5  # IoU of boxes from which an object counts as found


class Objects(NamedTuple):
    """The objects of an image.

    Attributes:
        labels: numbers of their classes.
        boxes: left, top, width and height in pixels.
        marks: of predictions their scores; of true objects whether they are crowds.
    """

    labels: Sequence[int]
    boxes: np.ndarray  # [count, 4]
    marks: Sequence[float]


def count_pairs(confusion: np.ndarray, true: Objects, predicted: Objects) -> None:
    """Add the objects of an image to a confusion matrix.

    Predictions choose in the order of their scores. Each takes the free true object that its box overlaps most, of any
    class, if their IoU is at least 0.5. A prediction on a crowd alone does not count.

    Args:
        confusion: [N + 1, N + 1] number of objects by true class (row) and predicted class (column), which is changed.
            The last row has the predictions on the background, the last column the true objects that were not found.
        true: the annotations.
        predicted: the predictions.
    """
    background = len(confusion) - 1
    free = {number for number, crowd in enumerate(true.marks) if not crowd}
    crowds = [number for number, crowd in enumerate(true.marks) if crowd]
    overlaps = np.zeros((len(predicted.labels), len(true.labels)))
    if overlaps.size:
        overlaps = codec.iou(predicted.boxes, true.boxes, [int(crowd) for crowd in true.marks])
    for number in np.argsort(-np.asarray(predicted.marks), kind="stable"):
        label = predicted.labels[number]
        best = max(free, key=lambda candidate: overlaps[number, candidate], default=None)
        if best is not None and overlaps[number, best] >= _OVERLAP:
            free.remove(best)
            confusion[true.labels[best], label] += 1
        elif not any(overlaps[number, crowd] >= _OVERLAP for crowd in crowds):
            confusion[background, label] += 1
    for missed in free:
        confusion[true.labels[missed], background] += 1
