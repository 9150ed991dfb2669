"""Compares the state's readout with a gated norm on the GPU with the CPU kernel: gradients, half types, graphs."""

import pytest
import torch
from oracles.gated_readout import halved, inputs, readout_and_gradients, two_operators
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import gated_state_readout

pytestmark = pytest.mark.gpu
# All ways through the kernels: vectors of four and single channels, rows of a part of a warp up to a block, and more
# channels than the kernels take.
SHAPES = [
    (1, 1, 3), (2, 3, 5), (3, 7, 16), (2, 13, 37), (2, 70, 160), (5, 49, 1280), (3, 29, 1023), (2, 300, 192),
    (2, 11, 2048), (1, 9, 4097),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_cpu_with_every_gradient(shape):
    leaves = inputs(shape)
    expected = readout_and_gradients(leaves, "cpu")
    for name, value in readout_and_gradients(leaves, "auto", "cuda").items():
        assert_close(value, expected[name], name)


# Two norms, one after the other, make errors of float32 too large for the fixed limit where a row has few channels.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [37, 160, 192, 320, 640, 1280])
def test_narrow_types_are_as_good_as_the_reference(dtype, channels):
    leaves = halved(inputs((2, 50, channels), torch.float32), dtype)
    exact = readout_and_gradients([v.double() for v in leaves], "reference")
    same = readout_and_gradients(leaves, "reference")
    for name, value in readout_and_gradients(leaves, "cuda", "cuda").items():
        assert value.dtype == same[name].dtype
        assert_as_good_as(value, same[name], exact[name], name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_the_two_operators(dtype):
    leaves = [v.cuda() for v in halved(inputs((8, 49, 320), torch.float32), dtype)]
    assert_close(gated_state_readout(*leaves), two_operators(*leaves))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("place", [160, 161], ids=["aligned", "not aligned"])
def test_a_gate_may_be_a_part_of_a_wider_map(place, dtype):
    leaves = [v.cuda() for v in halved(inputs((3, 40, 160), torch.float32), dtype)]
    wide = torch.full((3, 40, 324), float("nan"), device="cuda", dtype=dtype)
    wide[..., place : place + 160] = leaves[6]
    upstream = torch.randn_like(leaves[1])
    gradients = []
    for gate in (leaves[6], wide[..., place : place + 160]):
        arguments = (*leaves[:6], 1e-5, gate, *leaves[7:], 1e-5)
        y = torch.ops.tree_ssm.gated_state_readout(*arguments)
        gradients.append((y, *torch.ops.tree_ssm.gated_state_readout_backward(upstream, *arguments)))
    for dense, strided in zip(*gradients, strict=True):
        assert_close(strided, dense, tolerance=1e-4 if dtype == torch.float32 else None)


def test_gates_far_from_zero():
    leaves = inputs((2, 64, 160), torch.float32)
    leaves[6] *= 40
    expected = gated_state_readout(*(v.double() for v in leaves))
    assert_close(gated_state_readout(*(v.cuda() for v in leaves)), expected, tolerance=1e-5)


def test_gradcheck_and_opcheck():
    leaves = [v.cuda().requires_grad_() for v in inputs((2, 3, 5))]
    assert gradcheck(lambda *a: gated_state_readout(*a, backend="cuda"), leaves)
    opcheck(torch.ops.tree_ssm.gated_state_readout.default, (*leaves[:6], 1e-5, *leaves[6:], 1e-5))


@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8), (2, 3, 0)], ids=str)
def test_empty(shape):
    for name, value in readout_and_gradients(inputs(shape), "cuda", "cuda").items():
        assert not value.any(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bitwise_repetition_and_graph_replay(dtype):
    leaves = halved(inputs((64, 784, 320), torch.float32), dtype)
    expected = readout_and_gradients(leaves, "cuda", "cuda")
    for _ in range(5):
        for name, value in readout_and_gradients(leaves, "cuda", "cuda").items():
            assert torch.equal(value, expected[name]), name
    static = [torch.zeros_like(v, device="cuda").requires_grad_() for v in leaves]
    g = torch.ones_like(static[1])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = gated_state_readout(*static)
        gradients = torch.autograd.grad(y, static, g)
    with torch.no_grad():
        for to, value in zip(static, leaves, strict=True):
            to.copy_(value)
    graph.replay()
    assert torch.equal(y, expected["y"])
    again = torch.autograd.grad(gated_state_readout(*static), static, g)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


def test_too_many_channels_for_the_kernel_are_named():
    for channels in (1025, 1284):
        leaves = [v.cuda() for v in inputs((1, 2, channels), torch.float32)]
        with pytest.raises(ValueError, match=f"at most 1024 channels, or 1280 in fours, got {channels}"):
            gated_state_readout(*leaves, backend="cuda")
