"""The perplexity of language models as a metric."""

import math
from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from ssm_core.errors import DataError
from ssm_train.registry import METRICS


@METRICS.register_module()
class Perplexity(BaseMetric):
    """The metric ``perplexity``: exp of the mean negative log-likelihood of all tokens of all responses."""

    default_prefix = ""

    def __init__(self) -> None:
        # "gpu" gathers by the process group, on any device. "cpu" would gather by files.
        super().__init__(collect_device="gpu")

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the negative log-likelihood and the number of response tokens of every row."""
        self.results += [(float(sample["nll"]), int(sample["tokens"])) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[float, int]]) -> dict[str, float]:
        """Compute the perplexity over the whole dataset.

        Raises:
            DataError: the dataset has no response.
        """
        tokens = sum(count for _, count in results)
        if tokens == 0:
            raise DataError(
                "there is no perplexity, because every response of the dataset is empty: check its field output"
            )
        mean = sum(nll for nll, _ in results) / tokens
        return {"perplexity": math.exp(mean) if mean < 700 else math.inf}
