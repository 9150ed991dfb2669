"""Tests of the depthwise convolution: definition, CPU kernel, every gradient, low precision, determinism."""

import math

import pytest
import torch
from oracles.convolution import conv_and_gradients, exact, inputs, of_pytorch, results
from torch import nn
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.flops import count_pass
from ssm_core.ops import depthwise_conv
from ssm_core.ops.depthwise_conv import depthwise_conv_for
from ssm_core.testing import assert_as_good_as, assert_close

# One token, one row, one column, one channel, odd sizes, and more rows than the kernel has pieces.
SHAPES = [
    (1, 1, 1, 1),
    (2, 1, 5, 3),
    (2, 5, 1, 8),
    (3, 2, 2, 4),
    (2, 3, 5, 7),
    (1, 9, 8, 33),
    (2, 14, 14, 24),
    (70, 9, 2, 5),
]
HALF_TYPES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_is_the_formula(backend):
    x, weight, bias = inputs((2, 3, 4, 2))
    y = depthwise_conv(x, weight, bias, backend)
    for b, h, w, c in torch.cartesian_prod(*map(torch.arange, y.shape)).tolist():
        p = bias[c].item()
        for i in range(3):
            for j in range(3):
                row, column = h + i - 1, w + j - 1
                if 0 <= row < 3 and 0 <= column < 4:
                    p += (weight[c, i, j] * x[b, row, column, c]).item()
        assert abs(y[b, h, w, c] - p / (1 + math.exp(-p))) < 1e-12


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_equals_pytorch_with_every_gradient(backend, shape, with_bias):
    leaves = inputs(shape, with_bias=with_bias)
    for dtype in (torch.float64, torch.float32):
        given = [v.to(dtype) for v in leaves]
        expected = exact(given)
        for value_of, value in conv_and_gradients(given, backend).items():
            assert value.dtype == dtype
            assert_close(value, expected[value_of], value_of)


def test_takes_the_parameters_of_a_layer():
    conv = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    x = torch.randn(2, 4, 5, 6)
    y = depthwise_conv(x, conv.weight, conv.bias)
    assert_close(y, nn.functional.silu(conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1).detach())
    y.sum().backward()
    assert conv.weight.grad.shape == conv.weight.shape
    assert torch.equal(y, depthwise_conv(x, conv.weight.squeeze(1), conv.bias))


def test_half_parameters_have_half_gradients():
    x, weight, bias = (v.bfloat16().requires_grad_() for v in inputs((2, 4, 5, 6), torch.float32))
    y = depthwise_conv(x, weight, bias)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == weight.grad.dtype == bias.grad.dtype == torch.bfloat16
    expected = results(of_pytorch, [v.detach().double() for v in (x, weight, bias)])
    assert_close(y, expected["y"])


def test_gradcheck():
    for with_bias in (True, False):
        leaves = [v.requires_grad_() for v in inputs((2, 3, 4, 2), with_bias=with_bias)]
        assert gradcheck(depthwise_conv, leaves)


@pytest.mark.parametrize("half", HALF_TYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 7, 9, 20), (3, 14, 14, 33)], ids=str)
def test_half_types_are_as_good_as_the_reference(shape, half):
    leaves = inputs(shape, half)
    expected, same = exact(leaves), conv_and_gradients(leaves, "reference")
    for value_of, value in conv_and_gradients(leaves, "cpu").items():
        assert value.dtype == same[value_of].dtype
        assert_as_good_as(value, same[value_of], expected[value_of], value_of)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF_TYPES], ids=str)
def test_numbers_of_any_size(dtype):
    """SiLU of a large negative number is zero, and no sum overflows on the way."""
    most = torch.finfo(dtype).max / 2
    x = torch.tensor([0.0, 1.0, -1.0, 50.0, -50.0, -87.0, -88.0, -104.0, -1000.0, most, -most], dtype=dtype)
    weight = torch.zeros(11, 3, 3)
    weight[:, 1, 1] = 1
    expected = nn.functional.silu(x.double())
    for backend in ("cpu", "reference"):
        leaf = x.view(1, 1, 1, -1).clone().requires_grad_()
        y = depthwise_conv(leaf, weight, backend=backend)
        (gradient,) = torch.autograd.grad(y.sum(), leaf)
        least = max(torch.finfo(dtype).tiny, 1e-30)
        torch.testing.assert_close(y.detach().flatten().double(), expected, rtol=8e-3, atol=least)
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient.flatten()[-2:], torch.tensor([1.0, 0.0], dtype=dtype))


def test_what_is_no_number_stays_in_its_channel_and_sample():
    x, weight, bias = inputs((3, 4, 5, 6), torch.float32)
    x[1, 0, 2, 3] = float("nan")
    found = conv_and_gradients([x, weight, bias], "cpu")
    wrong = found["y"].isnan()
    assert wrong.sum() == 6
    assert wrong[1, :2, 1:4, 3].all()
    of_x = found["grad_x"].isnan()
    assert not of_x[[0, 2]].any()
    assert not of_x[..., [0, 1, 2, 4, 5]].any()


def test_same_bits_for_any_number_of_threads_and_strided_inputs():
    leaves = inputs((3, 30, 5, 24), torch.float32)
    expected = conv_and_gradients(leaves)
    strided = [torch.stack([v, v], dim=-1)[..., 0] for v in leaves]
    torch.set_num_threads(2)
    try:
        actual = conv_and_gradients(strided)
    finally:
        torch.set_num_threads(1)
    for value_of, value in actual.items():
        assert torch.equal(value, expected[value_of]), value_of


def test_opcheck():
    x, weight, bias = [v.requires_grad_() for v in inputs((2, 4, 3, 8), torch.float32)]
    operator = torch.ops.ssm_core.depthwise_conv.default
    opcheck(operator, (x, weight, bias))
    opcheck(operator, (x.detach().bfloat16().requires_grad_(), weight, None))


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
def test_compiles(with_bias):
    leaves = [v.requires_grad_() for v in inputs((2, 4, 3, 8), torch.float32, with_bias)]
    compiled = torch.compile(depthwise_conv, fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (results(function, leaves) for function in (compiled, depthwise_conv))
    for value_of, value in found.items():
        assert torch.equal(value, expected[value_of]), value_of


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("readers", [1, 2, 3])
def test_maps_for_several_readers_have_the_gradient_of_all(readers, with_bias):
    leaves = [leaf.requires_grad_() for leaf in inputs((2, 5, 4, 7), with_bias=with_bias)]
    maps, one = depthwise_conv_for(readers, *leaves), of_pytorch(*leaves)
    assert len(maps) == readers
    for y in maps:
        assert_close(y.detach(), one.detach())
    found = torch.autograd.grad(sum((y**power).sum() for power, y in enumerate(maps, 1)), leaves)
    expected = torch.autograd.grad(sum((one**power).sum() for power in range(1, readers + 1)), leaves)
    for actual, exact_value in zip(found, expected, strict=True):
        assert_close(actual, exact_value)


def test_an_unread_map_has_a_gradient_of_zero():
    leaves = [leaf.requires_grad_() for leaf in inputs((2, 5, 4, 7))]
    _, read = depthwise_conv_for(2, *leaves)
    expected = torch.autograd.grad(of_pytorch(*leaves).sum(), leaves)
    for actual, exact_value in zip(torch.autograd.grad(read.sum(), leaves), expected, strict=True):
        assert_close(actual, exact_value)


@pytest.mark.parametrize("place", [4, 5])
def test_further_gradients_are_like_the_first(place):
    x, weight, bias = inputs((2, 3, 4, 2), torch.float32)
    for wrong in (x[:, :, :1], x[0], x.double()):
        arguments = [x, x, weight, bias, x, x]
        arguments[place] = wrong
        with pytest.raises(ValueError, match=r"(second|third) must be torch.float32 \(2, 3, 4, 2\), as x is, got"):
            torch.ops.ssm_core.depthwise_conv_sum_backward(*arguments)


def test_there_are_up_to_three_readers():
    for readers in (0, 4):
        with pytest.raises(ValueError, match=f"there can be 1 to 3 readers, got {readers}"):
            depthwise_conv_for(readers, *inputs((1, 2, 2, 1)))
    with pytest.raises(ValueError, match=r"x must be \[B, H, W, C\]"):
        depthwise_conv_for(2, torch.zeros(3), torch.zeros(1, 3, 3))


@pytest.mark.parametrize("shape", [(0, 4, 3, 8), (2, 0, 3, 8), (2, 4, 0, 8), (2, 4, 3, 0)], ids=str)
def test_empty(shape):
    for value_of, value in conv_and_gradients(inputs(shape)).items():
        assert not value.any(), value_of


class Convolution(nn.Module):
    """The operator, or the layers that it stands for."""

    def __init__(self, fused):
        super().__init__()
        self.conv, self.fused = nn.Conv2d(8, 8, 3, padding=1, groups=8), fused

    def forward(self, x):
        if self.fused:
            return depthwise_conv(x, self.conv.weight, self.conv.bias)
        return of_pytorch(x, self.conv.weight.squeeze(1), self.conv.bias)


def test_flops_are_those_of_the_layers():
    x = torch.zeros(2, 5, 7, 8)
    assert count_pass(Convolution(True), x) == count_pass(Convolution(False), x)
    assert count_pass(Convolution(True), x).total == 9 * x.numel()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 4, 2)}, r"x must be \[B, H, W, C\], got \(3, 4, 2\)"),
        (
            {"x": torch.zeros(1, 3, 4, 2, dtype=torch.int64)},
            "x must be float64, float32, bfloat16 or float16, got torch.i",
        ),
        ({"weight": torch.zeros(3, 3, 3)}, r"weight must be \[C, 3, 3\] or \[C, 1, 3, 3\] with C = 2, got \(3, 3, 3\)"),
        ({"weight": torch.zeros(2, 1, 5, 5)}, r"with C = 2, got \(2, 1, 5, 5\)"),
        ({"bias": torch.zeros(3)}, r"bias must be \[C\] with C = 2, got \(3,\)"),
        ({"weight": torch.zeros(2, 3, 3, device="meta")}, "weight is on meta but x is on cpu"),
        ({"backend": "fast"}, "backend must be one of"),
        ({"backend": "cuda"}, "the tensors are on cpu"),
    ],
)
def test_bad_input_is_named(change, message):
    names = ("x", "weight", "bias")
    arguments = dict(zip(names, inputs((1, 3, 4, 2), torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        depthwise_conv(**arguments)


def test_the_operator_itself_refuses_what_it_cannot_read():
    x, weight, bias = inputs((1, 3, 4, 2), torch.float32)
    operator = torch.ops.ssm_core.depthwise_conv
    for arguments, message in (
        ((x.transpose(1, 2), weight, bias), "x must be contiguous"),
        ((x, weight.double(), bias), "weight must be Float"),
        ((x, weight[:, :2], bias), r"weight must have shape \[2, 3, 3\]"),
        ((x[0], weight, bias), r"x must be \[B, H, W, C\]"),
    ):
        with pytest.raises(RuntimeError, match=message):
            operator(*arguments)
    with pytest.raises(RuntimeError, match="grad_y must be Float, got Double"):
        torch.ops.ssm_core.depthwise_conv_backward(x.double(), x, weight, bias)
