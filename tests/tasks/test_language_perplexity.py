"""Tests of the perplexity over the tokens of a dataset."""

import pytest
import torch

from ssm_core.errors import DataError
from ssm_train.tasks.language.perplexity import Perplexity


def test_perplexity_is_over_tokens():
    metric = Perplexity()
    metric.process({}, [{"nll": torch.tensor(3.0), "tokens": 3}, {"nll": torch.tensor(1.0), "tokens": 1}])
    metric.process({}, [{"nll": torch.tensor(8.0), "tokens": 4}])
    assert metric.evaluate(3)["perplexity"] == pytest.approx(torch.tensor(12 / 8).exp().item())
    metric.process({}, [{"nll": torch.tensor(0.0), "tokens": 0}])
    with pytest.raises(DataError, match="every response of the dataset is empty"):
        metric.evaluate(1)
