"""Perplexity of language models."""

import math
from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from ssm_core.errors import DataError
from ssm_train.registry import METRICS


@METRICS.register_module()
class Perplexity(BaseMetric):
    """exp of the mean negative log-likelihood, as ``perplexity``, over all tokens of all responses alike."""

    default_prefix = ""

    def __init__(self) -> None:
        super().__init__(collect_device="gpu")  # by the process group, whatever its device; "cpu" means by files

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Note the sum and the number of tokens of every row."""
        self.results += [(float(sample["nll"]), int(sample["tokens"])) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[float, int]]) -> dict[str, float]:
        """The perplexity over the whole dataset.

        Raises:
            DataError: there is no response in it.
        """
        tokens = sum(count for _, count in results)
        if tokens == 0:
            raise DataError("the perplexity has no token to be taken over: every response of the dataset is empty")
        mean = sum(nll for nll, _ in results) / tokens
        return {"perplexity": math.exp(mean) if mean < 700 else math.inf}
