"""Label maps as pictures, and the numbers in them."""

from collections.abc import Mapping, Sequence

import numpy as np
from mmseg.datasets import BaseSegDataset
from PIL import Image

from ssm_train.data.label_maps import IGNORED


def label_image(
    labels: np.ndarray,  # [H, W], whole numbers from 0
) -> Image.Image:
    """A label map as a picture of 8 bits, or of 16 bits if there are larger labels than 255."""
    return Image.fromarray(smallest(labels))


def smallest(labels: np.ndarray) -> np.ndarray:
    """Labels in 8 bits, or in 16 bits if there are larger ones than 255."""
    wide = labels.max(initial=0) > np.iinfo(np.uint8).max
    return labels.astype(np.uint16 if wide else np.uint8)


def renumber(dataset: BaseSegDataset, classes: Sequence[str]) -> None:
    """Number the classes of a dataset of label maps in another order.

    Args:
        dataset: the dataset.
        classes: its classes, in the order of their new numbers.
    """
    meta = dataset.metainfo
    own = list(meta["classes"])
    new = {number: list(classes).index(name) for number, name in enumerate(own)}
    # Loading replaces the labels of the files by these.
    before = dataset.label_map or {number: number for number in new}
    dataset.label_map = {label: new.get(number, IGNORED) for label, number in before.items()}
    palette = [meta["palette"][own.index(name)] for name in classes]
    dataset._metainfo.update(classes=tuple(classes), palette=palette, label_map=dataset.label_map)
    dataset._fully_initialized = False  # every sample has a copy of the map
    dataset.full_init()


def labels_of_files(
    labels: np.ndarray,  # [H, W]
    label_map: Mapping[int, int] | None,
) -> np.ndarray:  # [H, W]
    """The labels that stand for predicted classes in the files of a dataset.

    Args:
        labels: numbers of the model's classes.
        label_map: what loading makes of the labels in the files; None if it changes nothing.
    """
    written = np.arange(int(labels.max(initial=0)) + 1)
    for label, number in (label_map or {}).items():
        if number < len(written) and number != IGNORED:
            written[number] = label
    return written[labels]
