"""Compares the depthwise convolution on the GPU with PyTorch in float64: every gradient, half types, repetition."""

import pytest
import torch
from oracles.convolution import conv_and_gradients, exact, inputs, of_pytorch
from torch import nn
from torch.library import opcheck

from ssm_core.ops import depthwise_conv
from ssm_core.testing import assert_as_good_as, assert_close

pytestmark = pytest.mark.gpu
# All ways through the kernels: many walks to a block or one, parts of the lanes and several chunks of channels,
# channels that are read one by one, walks that end within a map and walks over several maps, and tiles of columns.
SHAPES = [
    (1, 1, 1, 1), (3, 1, 5, 3), (2, 5, 1, 8), (2, 3, 5, 7), (1, 9, 8, 33), (5, 7, 7, 64), (2, 14, 14, 48),
    (3, 28, 28, 40), (1, 56, 56, 32), (2, 56, 55, 96), (1, 9, 57, 16), (2, 5, 64, 72), (1, 3, 113, 24),
    (1, 200, 304, 8), (300, 4, 3, 16), (1, 3, 4, 10000), (9, 7, 7, 1280),
]  # fmt: skip
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_pytorch_with_every_gradient(shape, dtype):
    for with_bias in (True, False):
        leaves = inputs(shape, dtype, with_bias)
        expected = exact(leaves, "cuda")
        same = None if dtype.itemsize > 2 else conv_and_gradients(leaves, "reference", "cuda")
        for value_of, value in conv_and_gradients(leaves, "cuda", "cuda").items():
            assert value.is_cuda
            if same is None:
                assert value.dtype == dtype
                assert_close(value, expected[value_of], value_of)
            else:
                assert value.dtype == same[value_of].dtype
                assert_as_good_as(value, same[value_of], expected[value_of], value_of)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_of_several_readers_are_added_up(shape, dtype):
    x, weight, bias = (leaf.cuda() for leaf in inputs(shape, dtype))
    first, second, third = torch.randn(3, *shape, dtype=torch.float64, device="cuda").to(dtype)
    for more in ((second, None), (second, third), (None, third)):
        total = sum(grad.double() for grad in (first, *more) if grad is not None)
        found = torch.ops.ssm_core.depthwise_conv_sum_backward(first, x, weight, bias, *more)
        leaves = [leaf.double().requires_grad_() for leaf in (x, weight, bias)]
        expected = torch.autograd.grad(of_pytorch(*leaves), leaves, total)
        same = torch.ops.ssm_core.depthwise_conv_backward(total.to(dtype), x, weight, bias)
        for actual, rounded, value in zip(found, same, expected, strict=True):
            assert_as_good_as(actual, rounded, value)


# The widest rows of a half type and of float32, in the models' own shapes.
@pytest.mark.parametrize("shape", [(8, 56, 56, 192), (8, 28, 28, 384), (16, 14, 14, 768), (16, 7, 7, 1536)], ids=str)
def test_maps_of_the_models(shape):
    for dtype in (torch.bfloat16, torch.float32):
        leaves = inputs(shape, dtype)
        expected = exact(leaves, "cuda")
        same = conv_and_gradients(leaves, "reference", "cuda")
        for value_of, value in conv_and_gradients(leaves, "cuda", "cuda").items():
            assert_as_good_as(value, same[value_of], expected[value_of], value_of)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_unaligned_maps_are_read_one_by_one(dtype):
    x, weight, bias = (v.cuda() for v in inputs((2, 9, 8, 64), dtype))
    shifted = torch.cat([x.flatten()[:1], x.flatten()])[1:].view_as(x)
    assert shifted.data_ptr() % 16
    grad_y = torch.randn_like(x)
    off = torch.cat([grad_y.flatten()[:1], grad_y.flatten()])[1:].view_as(x)
    assert torch.equal(depthwise_conv(shifted, weight, bias), depthwise_conv(x, weight, bias))
    backward = torch.ops.ssm_core.depthwise_conv_backward
    for given in ((off, x), (grad_y, shifted)):
        for a, e in zip(backward(*given, weight, bias), backward(grad_y, x, weight, bias), strict=True):
            assert torch.equal(a, e)


def test_strided_maps_and_parameters_of_a_layer():
    conv = nn.Conv2d(48, 48, 3, padding=1, groups=48).cuda()
    x = torch.randn(2, 48, 9, 10, device="cuda")  # channels first, as no kernel reads it
    y = depthwise_conv(x.permute(0, 2, 3, 1), conv.weight, conv.bias)
    assert_close(y.detach(), nn.functional.silu(conv.double()(x.double())).permute(0, 2, 3, 1).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_numbers_of_any_size(dtype):
    most = torch.finfo(dtype).max / 2
    x = torch.tensor([0.0, 1.0, -1.0, 50.0, -50.0, -87.0, -88.0, -104.0, -1000.0, most, -most], dtype=dtype)
    weight = torch.zeros(11, 3, 3)
    weight[:, 1, 1] = 1
    leaf = x.view(1, 1, 1, -1).cuda().requires_grad_()
    y = depthwise_conv(leaf, weight.cuda())
    (gradient,) = torch.autograd.grad(y.sum(), leaf)
    torch.testing.assert_close(y.cpu().flatten().double(), nn.functional.silu(x.double()), rtol=8e-3, atol=1e-30)
    assert gradient.isfinite().all()


def test_what_is_no_number_stays_in_its_channel_and_sample():
    """A row of zeros between two maps mixes nothing."""
    x, weight, bias = inputs((3, 4, 5, 6), torch.float32)
    for row in (0, 3):
        x[1, row, 2, 3] = float("nan")
    found = conv_and_gradients([x, weight, bias], "cuda", "cuda")
    for value_of in ("y", "grad_x"):
        wrong = found[value_of].isnan()
        assert wrong[1, ..., 3].any()
        assert not wrong[[0, 2]].any(), value_of
        assert not wrong[..., [0, 1, 2, 4, 5]].any(), value_of


@pytest.mark.parametrize("shape", [(0, 4, 3, 8), (2, 0, 3, 8), (2, 4, 0, 8), (2, 4, 3, 0)], ids=str)
def test_empty(shape):
    for value_of, value in conv_and_gradients(inputs(shape), "cuda", "cuda").items():
        assert not value.any(), value_of


def test_opcheck():
    x, weight, bias = [v.cuda().requires_grad_() for v in inputs((2, 4, 3, 8), torch.float32)]
    operator = torch.ops.ssm_core.depthwise_conv.default
    opcheck(operator, (x, weight, bias))
    opcheck(operator, (x.detach().bfloat16().requires_grad_(), weight, None))
    opcheck(torch.ops.ssm_core.depthwise_conv_sum_backward.default, (x, x, weight, bias, x, None))


def test_bitwise_repetition_and_graph_replay():
    leaves = inputs((16, 28, 28, 160), torch.bfloat16)
    expected = conv_and_gradients(leaves, "cuda", "cuda")
    for _ in range(5):
        for value_of, value in conv_and_gradients(leaves, "cuda", "cuda").items():
            assert torch.equal(value, expected[value_of]), value_of
    static = [torch.zeros_like(v, device="cuda").requires_grad_() for v in leaves]

    def step():
        y = depthwise_conv(*static)
        return y, *torch.autograd.grad(y, static, torch.ones_like(y))

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for to, value in zip(static, leaves, strict=True):
            to.copy_(value)
    graph.replay()
    assert torch.equal(captured[0], expected["y"])
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


def test_compiles_in_a_network():
    layers = nn.Linear(16, 32, bias=False).cuda(), nn.Conv2d(32, 32, 3, padding=1, groups=32).cuda()

    def network(x):
        return depthwise_conv(layers[0](x), layers[1].weight, layers[1].bias).float().square().mean()

    x = torch.randn(2, 7, 9, 16, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss, expected = torch.compile(network, fullgraph=True)(x), network(x)
    assert_close(loss.detach(), expected.detach(), tolerance=1e-4)
    parameters = [p for layer in layers for p in layer.parameters()]
    pairs = zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True)
    for a, e in pairs:
        assert_close(a, e, tolerance=1e-2)
