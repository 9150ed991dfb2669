"""Tests of the MLP's kernels against float64, for every width, with the gradients, and twice."""

import pytest
import torch
import torch.nn.functional as F

from ssm_core.ops import mlp
from ssm_core.ops.mlp import CHANNELS, WIDE_CHANNELS, has_mlp_kernel
from ssm_core.testing import assert_as_good_as

pytestmark = pytest.mark.gpu
NAMES = ("x", "weight1", "bias1", "weight2", "bias2")


def leaves_of(tokens, channels, hidden, dtype):
    generator = torch.Generator().manual_seed(tokens + channels)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).cuda()

    values = (
        draw(tokens, channels).to(dtype),
        (draw(hidden, channels) * channels**-0.5).to(dtype),
        draw(hidden),
        (draw(channels, hidden) * hidden**-0.5).to(dtype),
        draw(channels),
    )
    return [value.requires_grad_() for value in values], draw(tokens, channels).to(dtype)


def results(function, leaves, grad_y):
    y = function(*leaves)
    found = dict(zip(NAMES, torch.autograd.grad(y, leaves, grad_y), strict=True))
    return {name: value.detach() for name, value in found.items()} | {"y": y.detach()}


def layers(x, weight1, bias1, weight2, bias2):
    return F.linear(F.gelu(F.linear(x, weight1, bias1.to(x.dtype))), weight2, bias2.to(x.dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("tokens", [1, 127, 4_099, 150_001])
def test_is_as_good_as_the_layers_with_every_gradient(tokens, channels, dtype):
    leaves, grad_y = leaves_of(tokens, channels, 4 * channels, dtype)
    found, again = (results(lambda *given: mlp(*given, backend="cuda"), leaves, grad_y) for _ in range(2))
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected, same = results(layers, wide, grad_y.double()), results(layers, leaves, grad_y)
    for name, value in found.items():
        assert torch.equal(value, again[name]), name
        assert value.dtype == same[name].dtype
        assert_as_good_as(value, same[name], expected[name], name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", WIDE_CHANNELS)
@pytest.mark.parametrize("tokens", [1, 127, 4_099, 25_088])
def test_wide_ones_are_as_good_as_the_layers_without_gradients(tokens, channels, dtype):
    leaves, _ = leaves_of(tokens, channels, 4 * channels, dtype)
    values = [leaf.detach() for leaf in leaves]
    if not has_mlp_kernel(values[0], values[1], differentiable=False):
        pytest.skip("needs a GPU of 9.0 and a library with kernels for it")
    found, again = (mlp(*values, backend="cuda") for _ in range(2))
    assert torch.equal(found, again)
    assert_as_good_as(found, layers(*values), layers(*(value.double() for value in values)), "y")
    with pytest.raises(ValueError, match="without gradients"):
        mlp(*leaves, backend="cuda")


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("hidden", [32, 96, 160, 1_056])
def test_chunks_that_the_hidden_channels_do_not_fill(hidden, channels):
    leaves, _ = leaves_of(1_000, channels, hidden, torch.float16)
    values = [leaf.detach() for leaf in leaves]
    found = mlp(*values, backend="cuda")
    assert_as_good_as(found, layers(*values), layers(*(value.double() for value in values)), "y")


@pytest.mark.parametrize("hidden", [32, 96, 2_048])
def test_hidden_widths(hidden):
    leaves, grad_y = leaves_of(300, 64, hidden, torch.bfloat16)
    found = results(lambda *given: mlp(*given, backend="cuda"), leaves, grad_y)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected, same = results(layers, wide, grad_y.double()), results(layers, leaves, grad_y)
    for name, value in found.items():
        assert_as_good_as(value, same[name], expected[name], name)


def test_numbers_of_any_size_and_what_is_no_number_stays_in_its_token():
    (x, weight1, bias1, weight2, bias2), _ = leaves_of(40, 64, 256, torch.bfloat16)
    with torch.no_grad():
        x[3, 5] = float("nan")
        x[7] *= 1e4
        y = mlp(x, weight1, bias1, weight2, bias2, backend="cuda")
        same = layers(x, weight1, bias1, weight2, bias2)
    assert y[3].isnan().all()
    rest = torch.arange(40) != 3
    assert y[rest].isfinite().all()
    expected = layers(*(v.detach().double() for v in (x, weight1, bias1, weight2, bias2)))
    for token in torch.arange(40)[rest].tolist():  # one by one, since the large one's errors are as large
        assert_as_good_as(y[token], same[token], expected[token], f"token {token}")


def test_no_token():
    leaves, grad_y = leaves_of(0, 64, 256, torch.bfloat16)
    found = results(lambda *given: mlp(*given, backend="cuda"), leaves, grad_y)
    assert found["y"].shape == (0, 64)
    assert not found["weight1"].any()
    assert not found["bias1"].any()
