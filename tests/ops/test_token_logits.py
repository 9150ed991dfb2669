"""Tests of the score predictor's logits: the formula, the predictor's layers, derivatives, bad input."""

import pytest
import torch
from torch.autograd import gradcheck

from quadtree_ssm.modules import ScorePredictor
from quadtree_ssm.ops import token_logits
from quadtree_ssm.ops.token_logits import token_logits_reference
from quadtree_ssm.ops.token_logits.examples import EXAMPLES, _inputs
from ssm_core.testing import assert_close


def inputs(tokens, channels, dtype=torch.float64):
    return [x.to(dtype) for x in _inputs(tokens, channels, torch.Generator().manual_seed(0))]


def test_is_the_formula():
    x, gamma, beta, w1, b1, w2, b2, w3, b3, w4, b4 = inputs(3, 8)
    logits = token_logits(x, gamma, beta, w1, b1, w2, b2, w3, b3, w4, b4, eps=0.1)
    for t in range(3):
        mean = sum(x[t]) / 8
        deviation = (sum((v - mean) ** 2 for v in x[t]) / 8 + 0.1).sqrt()
        h = (x[t] - mean) / deviation * gamma + beta
        for w, b in ((w1, b1), (w2, b2), (w3, b3)):
            u = torch.stack([sum(row * h) for row in w]) + b
            h = u * 0.5 * torch.erfc(-u / 2**0.5)
        assert abs(logits[t] - (sum(w4 * h) + b4)) < 1e-12


def test_is_the_predictor():
    predictor = ScorePredictor(16).double()
    with torch.no_grad():
        for p in predictor.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(2, 5, 3, 16, dtype=torch.float64)
    assert_close(torch.nn.functional.logsigmoid(predictor._logits(x)), predictor(x))


def test_derivatives():
    leaves = [x.requires_grad_() for x in inputs(4, 8)]
    assert gradcheck(lambda *given: token_logits(*given), leaves)


def test_has_an_example_for_each_way_of_the_kernel():
    assert [torch.Size(example.inputs(torch.Generator())[0].shape)[1] for example in EXAMPLES] == [96, 192, 384]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(4, 6), r"gamma must be \[D\]"),
        (5, torch.zeros(3, 8), "bias2 must be"),
        (10, torch.zeros(4), "bias4 must be"),  # one for each token, which an addition would take
        (3, torch.zeros(8, 8, dtype=torch.float64), "must have one dtype"),
    ],
)
def test_bad_input_is_named(place, value, message):
    given = inputs(4, 8, torch.float32)
    given[place] = value
    with pytest.raises(ValueError, match=message):
        token_logits(*given)


def test_the_kernel_is_for_gpus():
    with pytest.raises(ValueError, match="backend 'cuda'"):
        token_logits(*inputs(4, 64, torch.bfloat16), backend="cuda")


def test_half_types_are_rounded_between_the_layers():
    given = inputs(50, 64, torch.bfloat16)
    exact = token_logits_reference(*(x.double() for x in given), 1e-5)
    assert token_logits(*given).dtype == torch.float32
    assert (token_logits(*given) - exact).abs().max() < 0.05 * exact.abs().max()
