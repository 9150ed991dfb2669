"""A hook that looks at label maps before training, and says what a network cannot learn from them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from ssm_core.errors import DataError
from ssm_train.data.classes import parts_of
from ssm_train.data.guarded import FAULTS
from ssm_train.data.label_maps import IGNORED
from ssm_train.data.loading import ANNOTATIONS
from ssm_train.registry import HOOKS
from ssm_train.runtime.runner import Runner


class LabelCounts(NamedTuple):
    """What is in some label maps.

    Attributes:
        maps: how many were read.
        pixels: [256], how many pixels have each label.
        empty: how many label maps have no pixel of any class.
    """

    maps: int
    pixels: np.ndarray
    empty: int


@HOOKS.register_module()
class LabelMapsHook(Hook):
    """Reads label maps of the training data before training, and counts the pixels of each class.

    A class without a pixel is warned of, and so are maps in which all is ignored. Data in which at most one class has a
    pixel end the training: nothing can be learnt. Often these are masks of 0 and 255.

    Args:
        most: how many label maps are read at most, evenly spaced. If there are more, a missing class is not warned of,
            since it may be rare.
    """

    def __init__(self, most: int = 300):
        self.most = most

    def before_train(self, runner: Runner) -> None:
        """Read label maps, count, and warn.

        Raises:
            DataError: at most one class has a pixel.
        """
        if not is_main_process():
            return
        parts = parts_of(runner.train_dataloader.dataset)
        if not all(hasattr(part, "get_data_info") and hasattr(part, "pipeline") for part in parts):
            return
        total = sum(map(len, parts))
        found = [count_labels(part, math.ceil(self.most * len(part) / total)) for part in parts]
        counts = LabelCounts(*map(sum, zip(*found, strict=True)))
        for sentence in findings(counts, parts[0].metainfo.get("classes") or (), complete=counts.maps >= total):
            runner.logger.warning(sentence)


def count_labels(dataset: Any, most: int) -> LabelCounts:
    """Count the pixels of each label in label maps of a dataset of mmseg's kind. Unreadable maps are passed over.

    Args:
        dataset: has ``get_data_info`` and ``pipeline``.
        most: how many maps to read at most, evenly spaced.
    """
    load = next((step for step in dataset.pipeline.transforms if type(step).__name__.startswith(ANNOTATIONS)), None)
    maps, empty, pixels = 0, 0, np.zeros(IGNORED + 1, np.int64)
    places = np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(int) if load is not None else ()
    for place in places:
        try:
            known = dataset.get_data_info(int(place))
            labels = np.bincount(load(known)["gt_seg_map"].ravel(), minlength=IGNORED + 1)[: IGNORED + 1]
        except FAULTS:  # training counts and names it
            continue
        maps, pixels = maps + 1, pixels + labels
        empty += int(labels[:IGNORED].sum() == 0)
    return LabelCounts(maps, pixels, empty)


def findings(counts: LabelCounts, classes: Sequence[str], complete: bool) -> list[str]:
    """What is wrong with label maps, one sentence each.

    Args:
        counts: of the maps that were read.
        classes: the names of the classes.
        complete: whether these were all maps.

    Raises:
        DataError: at most one class has a pixel.
    """
    if not counts.maps or len(classes) < 2:
        return []
    missing = [name for name, pixels in zip(classes, counts.pixels, strict=False) if not pixels]
    ignored = counts.pixels[IGNORED] / max(counts.pixels.sum(), 1)
    told = f"{counts.maps} label maps, and {ignored:.0%} of the pixels are {IGNORED}, which is ignored"
    if len(missing) >= len(classes) - 1:
        hint = f": write 1 instead of {IGNORED} for the object" if len(classes) == 2 and ignored else ""
        names = ", ".join(missing[:5])
        raise DataError(f"nothing can be learnt: no pixel of {names} in {told}{hint}")
    sentences = []
    if missing and complete:
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} others" if len(missing) > 5 else "")
        sentences.append(f"no pixel of {names} in {told}")
    if counts.empty:
        sentences.append(f"{counts.empty} of {counts.maps} label maps have no pixel of any class")
    return sentences
