"""Tests of recording what the scans chose."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ssm_core.layers import ScanMixer, SelectiveSSM, record_scans


class Chosen(NamedTuple):
    score: Tensor
    height: int


class Choosing(SelectiveSSM):
    def forward(self, x, previous=None):
        return x, None if previous == "nothing" else Chosen(2 * x, x.shape[1])


@pytest.fixture
def model():
    return nn.Sequential(ScanMixer(4, Choosing(4, 1, 1, 1), False, False), nn.Identity())


def test_records_by_name_within_the_context_only(model):
    x = torch.randn(1, 3, 2, 4)
    with record_scans(model) as record:
        assert record == {}
        model(x)
        assert list(record) == ["0.scan"]
        chosen = record["0.scan"]
        assert isinstance(chosen, Chosen)
        assert chosen.height == 3
        assert not chosen.score.requires_grad
        model(x + 1)
        assert not torch.equal(record["0.scan"].score, chosen.score)
    latest = record["0.scan"]
    model(x)
    assert record["0.scan"] is latest
    assert not model[0].scan._forward_hooks


def test_scans_that_choose_nothing_are_absent(model):
    with record_scans(model) as record:
        model[0](torch.randn(1, 3, 2, 4), "nothing")
    assert record == {}


def test_hooks_are_removed_after_an_error(model):
    with pytest.raises(RuntimeError), record_scans(model):
        model(torch.randn(1, 3, 2, 5))
    assert not model[0].scan._forward_hooks
