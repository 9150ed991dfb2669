"""Evaluation that leaves out the samples that could not be read."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement

from ssm_train.data.collate import UNREADABLE_KEY


class ReadableEvaluator(Evaluator):
    """mmengine's evaluator, which keeps samples from the metrics that :class:`.GuardedDataset` had to replace."""

    _replaced = 0

    def process(self, data_samples: Sequence[BaseDataElement], data_batch: Any = None) -> None:
        """Hand the predictions of a batch to the metrics."""
        good = [s for s in data_samples if not (isinstance(s, BaseDataElement) and s.metainfo.get(UNREADABLE_KEY))]
        self._replaced += len(data_samples) - len(good)
        if good:
            super().process(good, data_batch)

    def evaluate(self, size: int) -> dict:
        """Compute the metrics over a whole dataset of ``size`` samples, and warn of those that were left out."""
        replaced = torch.tensor(self._replaced)
        all_reduce(replaced)
        self._replaced = 0
        if replaced:
            MMLogger.get_current_instance().warning(
                f"{int(replaced)} of {size} images could not be used and are not in the metrics"
            )
        return super().evaluate(size)
