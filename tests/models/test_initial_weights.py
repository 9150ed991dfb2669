"""Tests of the initial weights: timm's numbers, without those that its float32 draws too far out."""

import pytest
import torch
from timm.layers import trunc_normal_

from quadtree_ssm import QuadMamba
from ssm_core.layers.initial import FURTHEST, draw_weights
from tree_ssm import MambaTreeV


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_they_are_timms(dtype):
    ours, theirs = torch.empty(2, 64, 48, dtype=dtype)
    torch.manual_seed(0)
    draw_weights(ours, 0.1)
    torch.manual_seed(0)
    trunc_normal_(theirs, std=0.1)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("uniform", [-1.0, 1.0])
def test_the_outermost_numbers_are_cut_off(uniform, monkeypatch):
    """timm's function makes ±2 of them, whatever the standard deviation is."""
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *_: self.fill_(uniform))
    weight = trunc_normal_(torch.empty(3), std=0.02)
    assert weight.tolist() == [2 * uniform] * 3
    draw_weights(weight, 0.02)
    assert weight.abs().max() <= FURTHEST * 0.02 * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_drawn_in_float32(dtype):
    torch.manual_seed(0)
    weight = torch.empty(500, 500, dtype=dtype)
    draw_weights(weight, 0.02)
    assert weight.float().std() == pytest.approx(0.02, rel=0.01)
    assert weight.float().abs().max() < 0.11
    assert len(weight.unique()) > 1000


@pytest.mark.parametrize("family", [QuadMamba, MambaTreeV])
@pytest.mark.parametrize("value", [0, -1, float("nan"), 1e17, float("inf"), "0.1", None])
def test_a_deviation_that_is_none(family, value):
    with pytest.raises(ValueError, match="linear_std must be"):
        family(arch="nano", linear_std=value)
