"""Compares the state's readout on the GPU with the CPU kernel: every gradient, half types, graphs, repetition."""

import pytest
import torch
from oracles.readout import inputs, readout_and_gradients
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import state_readout

pytestmark = pytest.mark.gpu
SHAPES = [
    (1, 1, 3), (2, 3, 5), (3, 7, 16), (2, 13, 37), (2, 70, 160), (5, 49, 1280), (3, 29, 1023), (2, 11, 2560),
    (2, 300, 192), (1, 9, 4097),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_cpu_with_every_gradient(shape, dtype):
    leaves = [v.to(dtype) for v in inputs(shape)]
    expected = readout_and_gradients([v.double() for v in leaves], "cpu")
    for name, value in readout_and_gradients(leaves, "auto", "cuda").items():
        assert value.dtype == dtype
        assert_close(value, expected[name], name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [37, 160, 1280])
def test_half_types_are_as_good_as_the_reference(dtype, channels):
    h, x, C, *parameters = inputs((2, 50, channels), torch.float32)
    leaves = [h.to(dtype), x.to(dtype), C.to(dtype), *parameters]
    exact = readout_and_gradients([v.double() for v in leaves], "reference")
    same = readout_and_gradients(leaves, "reference")
    for name, value in readout_and_gradients(leaves, "cuda", "cuda").items():
        assert value.dtype == same[name].dtype
        assert_as_good_as(value, same[name], exact[name], name)


def test_gradcheck_and_opcheck():
    leaves = [v.cuda().requires_grad_() for v in inputs((2, 3, 5))]
    assert gradcheck(lambda *a: state_readout(*a, backend="cuda"), leaves)
    opcheck(torch.ops.tree_ssm.state_readout.default, (*leaves, 1e-5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bitwise_repetition_and_graph_replay(dtype):
    h, x, C, *parameters = inputs((64, 784, 320), torch.float32)
    leaves = [h.to(dtype), x.to(dtype), C.to(dtype), *parameters]
    expected = readout_and_gradients(leaves, "cuda", "cuda")
    for _ in range(5):
        for name, value in readout_and_gradients(leaves, "cuda", "cuda").items():
            assert torch.equal(value, expected[name]), name
    static = [torch.zeros_like(v, device="cuda").requires_grad_() for v in leaves]
    g = torch.ones_like(static[1])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = state_readout(*static)
        gradients = torch.autograd.grad(y, static, g)
    with torch.no_grad():
        for to, value in zip(static, leaves, strict=True):
            to.copy_(value)
    graph.replay()
    assert torch.equal(y, expected["y"])
    again = torch.autograd.grad(state_readout(*static), static, g)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


def test_too_many_channels_for_the_kernel_are_named():
    leaves = [v.cuda() for v in inputs((1, 2, 1025), torch.float32)]
    with pytest.raises(ValueError, match="at most 1024 channels, or 2560 in fours, got 1025"):
        state_readout(*leaves, backend="cuda")
