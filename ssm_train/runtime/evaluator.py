"""Evaluation that counts every sample once and leaves out those that could not be read."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import MMLogger
from mmengine.runner.base_loop import BaseLoop
from mmengine.structures import BaseDataElement

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.collate import UNREADABLE_KEY

_SHOWN = 3  # metrics in a message


class ReadableEvaluator(Evaluator):
    """mmengine's evaluator, which keeps two kinds of samples from the metrics.

    The first are samples that a dataset had to replace. The second are samples with which the sampler of several
    processes fills their last batches: mmengine drops as many from the end of all results, which are others if some
    samples were left out before.

    Args:
        metrics: a metric or several ones, built or as configs.

    Raises:
        ConfigError: two metrics of a class that says ``has_fixed_names = True`` have the same prefix.
    """

    size: int | None = None  # number of samples of the dataset; the Runner sets it

    _replaced = 0
    _used = 0
    _seen = 0  # number of samples that this process was given

    def __init__(self, metrics: dict | BaseMetric | Sequence):
        super().__init__(metrics)
        # Metrics of other packages can have other names by their settings, so that two of them may be right.
        fixed = [metric for metric in self.metrics if getattr(metric, "has_fixed_names", False)]
        kinds = [(type(metric).__name__, metric.prefix) for metric in fixed]
        twice = next((kind for number, kind in enumerate(kinds) if kind in kinds[:number]), None)
        if twice is not None:
            raise ConfigError(
                f"an evaluator has two metrics {twice[0]} whose figures would have the same names: give each its own "
                'prefix="…"'
            )

    def process(self, data_samples: Sequence[BaseDataElement | dict], data_batch: Any = None) -> None:
        """Hand the predictions of a batch to the metrics."""
        own = [sample for sample in data_samples if not self._is_repeated()]
        good = [sample for sample in own if not _problem_of(sample)]
        self._replaced += len(own) - len(good)
        self._used += len(good)
        if good:
            super().process(good, data_batch)

    def evaluate(self, size: int) -> dict:
        """Compute the metrics over a whole dataset of ``size`` samples.

        Samples that were left out and metrics that are NaN are warned of.

        Raises:
            DataError: all samples were left out, or there were none.
        """
        replaced = torch.tensor(self._replaced)
        used = torch.tensor(self._used)
        all_reduce(replaced)
        all_reduce(used)
        self._replaced = self._seen = self._used = 0
        if not used:
            raise DataError(
                f"there is nothing to measure: not one of the {size} samples could be used"
                if replaced
                else "there is nothing to measure: the evaluation had no samples"
            )
        if replaced:
            MMLogger.get_current_instance().warning(
                f"{int(replaced)} of {size} images could not be used and are not in the metrics"
            )
        metrics = super().evaluate(size)
        if unknown := not_measured(metrics):
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            MMLogger.get_current_instance().warning(
                f"{', '.join(unknown[:_SHOWN])}{more} could not be measured on these {size} samples (NaN)"
            )
        return metrics

    def _is_repeated(self) -> bool:
        """Count a sample, and say whether it only fills the last batch of this process."""
        # mmengine's sampler deals the samples to the processes in turns.
        place = self._seen * get_world_size() + get_rank()
        self._seen += 1
        return get_world_size() > 1 and self.size is not None and place >= self.size


def not_measured(metrics: Mapping[str, Any]) -> list[str]:
    """Names of the metrics that are NaN."""
    return [name for name, value in metrics.items() if isinstance(value, Real) and math.isnan(value)]


def _problem_of(sample: BaseDataElement | dict) -> str:
    """What was wrong with the sample that this one replaces; empty if it is itself."""
    known = sample.metainfo if isinstance(sample, BaseDataElement) else sample
    return known.get(UNREADABLE_KEY) or ""


def told_data(loop: BaseLoop) -> BaseLoop:
    """Tell the evaluator of a loop how many samples the loop has, and its metrics which data they are.

    A metric that needs to know the dataset has a method ``take_data``.

    Returns:
        The loop.
    """
    dataset = loop.dataloader.dataset
    if isinstance(loop.evaluator, ReadableEvaluator):
        loop.evaluator.size = len(dataset)
    for metric in getattr(loop.evaluator, "metrics", ()):
        if hasattr(metric, "take_data"):
            metric.take_data(dataset)
    return loop
