"""Tests of the token logits' kernel against float64, for every width, and of the predictors that use it."""

import copy

import pytest
import torch
from torch.library import opcheck

from quadtree_ssm import QuadMamba
from quadtree_ssm.modules import ScorePredictor
from quadtree_ssm.ops import token_logits
from quadtree_ssm.ops.token_logits import CHANNELS, token_logits_reference
from quadtree_ssm.ops.token_logits.examples import _inputs
from ssm_core.layers import fuse_mlps
from ssm_core.testing import assert_as_good_as

pytestmark = pytest.mark.gpu
HALVES = (0, 3, 5, 7)  # the tokens and the weights of the first three layers


def inputs(tokens, channels, dtype):
    given = _inputs(tokens, channels, torch.Generator().manual_seed(tokens + channels))
    return [x.cuda().to(dtype if i in HALVES else torch.float32) for i, x in enumerate(given)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("tokens", [63, 127, 193, 256, 4_099, 150_001])
def test_is_as_good_as_the_layers(tokens, channels, dtype):
    given = inputs(tokens, channels, dtype)
    found = token_logits(*given, backend="cuda")
    assert torch.equal(found, token_logits(*given, backend="cuda"))
    exact = token_logits_reference(*(x.double() for x in given), 1e-5)
    assert_as_good_as(found, token_logits(*given, backend="reference"), exact, "logits")


# One number cannot be compared with twice the error of another: it would be larger for a third of all tokens. So 63
# calls of a token each are compared at once.
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_tokens_alone_are_as_good_as_the_layers(channels, dtype):
    x, *layers = inputs(63, channels, dtype)
    alone, plain = (
        torch.cat([token_logits(token, *layers, backend=backend) for token in x.split(1)])
        for backend in ("cuda", "reference")
    )
    exact = token_logits_reference(x.double(), *(layer.double() for layer in layers), 1e-5)
    assert_as_good_as(alone, plain, exact, "logits")
    assert torch.equal(alone, token_logits(x, *layers, backend="cuda"))


def test_no_number_stays_in_its_token_and_no_token_is_no_logit():
    given = inputs(300, 192, torch.bfloat16)
    expected = token_logits(*given, backend="cuda")
    given[0][7, 3] = float("nan")
    found = token_logits(*given, backend="cuda")
    assert found[7].isnan()
    rest = torch.arange(300) != 7
    assert torch.equal(found[rest], expected[rest])
    assert token_logits(given[0][:0], *given[1:], backend="cuda").shape == (0,)


def test_opcheck():
    x, gamma, beta, *layers = inputs(40, 64, torch.bfloat16)
    opcheck(torch.ops.quadtree_ssm.token_logits.default, (x, gamma, beta, 1e-5, *layers))


@pytest.mark.parametrize("compiled", [False, True])
def test_predictors_use_it_without_gradients(compiled, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "quadtree_ssm.modules.token_logits", lambda *given: calls.append(1) or token_logits(*given, backend="cuda")
    )
    predictor = ScorePredictor(96).cuda()
    plain = fuse_mlps(copy.deepcopy(predictor), fused=False)
    x = torch.randn(2, 14, 14, 96, device="cuda")
    run = torch.compile(predictor) if compiled else predictor
    with torch.autocast("cuda", torch.bfloat16):
        with torch.no_grad():
            torch.testing.assert_close(run(x), plain(x), rtol=0.02, atol=0.02)
        assert compiled or len(calls) == 1
        predictor(x).sum().backward()
    assert compiled or len(calls) == 1
    assert all(p.grad is not None for p in predictor.parameters())


def test_one_compiled_predictor_after_another_of_another_width():
    """torch.compile leaves open what changed from one call of the code to the next."""
    torch._dynamo.reset()
    for channels, side in ((64, 14), (96, 14), (96, 28), (128, 7)):
        predictor = ScorePredictor(channels).cuda()
        x = torch.randn(2, side, side, channels, device="cuda")
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            torch.testing.assert_close(torch.compile(predictor)(x), predictor(x), rtol=0.02, atol=0.02)


def test_whole_networks_choose_alike():
    torch.manual_seed(0)
    model = QuadMamba(arch="nano", num_classes=5, linear_std=0.1).cuda().eval()
    plain = fuse_mlps(copy.deepcopy(model), fused=False)
    images = torch.randn(8, 3, 64, 64, device="cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        torch.testing.assert_close(model(images), plain(images), rtol=0.1, atol=0.1)
