"""Evaluation that leaves out what could not be read."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement

from ssm_train.data.guarded import MARK


class ReadableEvaluator(Evaluator):
    """mmengine's evaluator; samples that :class:`.GuardedDataset` had to replace do not reach the metrics."""

    _replaced = 0

    def process(self, data_samples: Sequence[BaseDataElement], data_batch: Any = None) -> None:
        """Hand the predictions of a batch to the metrics."""
        good = [s for s in data_samples if not (isinstance(s, BaseDataElement) and s.metainfo.get(MARK))]
        self._replaced += len(data_samples) - len(good)
        if good:
            super().process(good, data_batch)

    def evaluate(self, size: int) -> dict:
        """The metrics over a whole dataset of ``size`` samples."""
        replaced = torch.tensor(self._replaced)
        all_reduce(replaced)
        self._replaced = 0
        if replaced:
            MMLogger.get_current_instance().warning(
                f"{int(replaced)} of {size} images could not be used and are not in the metrics"
            )
        return super().evaluate(size)
