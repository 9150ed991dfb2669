"""Compares the norms on the GPU with the CPU kernels: every gradient, half types, graphs, repetition."""

import pytest
import torch
from oracles.norms import NORMS, inputs, norm_and_gradients, norm_of
from torch.library import opcheck

from ssm_core.ops import gated_layer_norm, layer_norm
from ssm_core.testing import assert_as_good_as, assert_close

pytestmark = pytest.mark.gpu
# All ways through the kernels: vectors of four and single channels, rows of a part of a warp up to a block, and more
# channels than the kernels take.
SHAPES = [
    (1, 1, 3), (2, 3, 8), (3, 7, 16), (2, 13, 37), (2, 7, 10, 96), (2, 70, 160), (3, 29, 384), (5, 49, 1280),
    (3, 29, 1023), (2, 11, 3072), (2, 11, 4096), (2, 3, 4095), (2, 300, 192), (1, 9, 4097),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_equals_cpu_with_every_gradient(name, shape, dtype):
    leaves = [v.to(dtype) for v in inputs(shape)]
    for both in (True, False):
        expected = norm_and_gradients(name, [v.double() for v in leaves], backend="cpu", both=both)
        for value_of, value in norm_and_gradients(name, leaves, device="cuda", both=both).items():
            assert value.dtype == dtype
            assert_close(value, expected[value_of], value_of)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wide", ["", "x", "stream", "y", "x and stream", "x and y", "stream and y"])
@pytest.mark.parametrize("channels", [37, 96, 160, 1280])
@pytest.mark.parametrize("name", NORMS)
def test_half_types_are_as_good_as_the_reference(name, channels, wide, half):
    # Many samples: errors of a sum over a sample, the gradient of its scale, are compared on average.
    x, residual, *parameters = inputs((50, 4, channels), torch.float32)
    leaves = [x if "x" in wide else x.to(half), residual if "stream" in wide else residual.to(half), *parameters]
    dtype = torch.float32 if "y" in wide else half
    exact = norm_and_gradients(name, [v.double() for v in leaves], torch.float64, "reference")
    same = norm_and_gradients(name, leaves, dtype, "reference")
    for value_of, value in norm_and_gradients(name, leaves, dtype, "cuda", "cuda").items():
        assert value.dtype == same[value_of].dtype
        assert_as_good_as(value, same[value_of], exact[value_of], value_of)


def test_unaligned_rows_are_read_one_by_one():
    x, _, _, weight, bias = (v.cuda() for v in inputs((64, 96), torch.bfloat16))
    shifted = torch.cat([x.flatten()[:1], x.flatten()])[1:].view_as(x)
    assert shifted.data_ptr() % 8
    assert_close(layer_norm(shifted, weight, bias), layer_norm(x, weight, bias))


def test_gates_far_from_zero_and_a_gate_that_is_not_aligned():
    x, gate, _, weight, bias = inputs((64, 160), torch.float32)
    gate = gate * 40
    expected = gated_layer_norm(x.double(), gate.double(), weight.double(), bias.double())
    on_gpu = [v.cuda() for v in (x, gate, weight, bias)]
    assert_close(gated_layer_norm(*on_gpu), expected)
    shifted = torch.cat([on_gpu[1].flatten()[:1], on_gpu[1].flatten()])[1:].view_as(x)
    assert shifted.data_ptr() % 16
    assert_close(gated_layer_norm(on_gpu[0], shifted, *on_gpu[2:]), expected)


def test_opcheck():
    x, residual, scale, weight, bias = [v.cuda().requires_grad_() for v in inputs((2, 9, 8), torch.float32)]
    opcheck(torch.ops.ssm_core.norm.default, (x, weight, bias, 1e-5, True, torch.bfloat16))
    arguments = (x.detach().bfloat16(), residual, scale, weight, bias, 1e-5, True, torch.bfloat16)
    opcheck(torch.ops.ssm_core.residual_norm.default, arguments)
    opcheck(torch.ops.ssm_core.gated_norm.default, (x, residual, weight, bias, 1e-5, True))
    halves = [v.detach().bfloat16().requires_grad_() for v in (x, residual)]
    opcheck(torch.ops.ssm_core.gated_norm.default, (*halves, weight, None, 1e-5, False))


@pytest.mark.parametrize("name", NORMS)
def test_bitwise_repetition_and_graph_replay(name):
    x, residual, *parameters = inputs((64, 784, 192), torch.float32)
    leaves = [x.bfloat16(), residual, *parameters]
    expected = norm_and_gradients(name, leaves, torch.bfloat16, "cuda", "cuda")
    for _ in range(5):
        for value_of, value in norm_and_gradients(name, leaves, torch.bfloat16, "cuda", "cuda").items():
            assert torch.equal(value, expected[value_of]), value_of
    static = [torch.zeros_like(v, device="cuda").requires_grad_() for v in leaves]
    function = norm_of(name, dtype=torch.bfloat16)

    def step():
        results = function(*static)
        y = results if isinstance(results, torch.Tensor) else results[0]
        return y, *torch.autograd.grad(y, static, torch.ones_like(y), materialize_grads=True)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for to, value in zip(static, leaves, strict=True):
            to.copy_(value)
    graph.replay()
    assert torch.equal(captured[0], expected["y"])
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


def test_too_many_channels_for_the_kernel_are_named():
    x, _, _, weight, bias = (v.cuda() for v in inputs((2, 4097), torch.float32))
    with pytest.raises(ValueError, match="at most 4096 channels, got 4097"):
        layer_norm(x, weight, bias, backend="cuda")
