"""Tests of the state's readout: definition, CPU kernel, every gradient, low precision, determinism."""

import pytest
import torch
from oracles.readout import inputs, readout_and_gradients
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import state_readout

SHAPES = [(2, 3, 3), (1, 1, 5), (3, 7, 16), (2, 13, 37), (2, 70, 160)]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_is_the_formula(backend):
    h, x, C, D, weight, bias = inputs((2, 3, 4))
    y = state_readout(h, x, C, D, weight, bias, eps=0.1, backend=backend)
    for b in range(2):
        for t in range(3):
            mean = sum(h[b, t]) / 4
            deviation = (sum((v - mean) ** 2 for v in h[b, t]) / 4 + 0.1).sqrt()
            for d in range(4):
                expected = C[b, t] * ((h[b, t, d] - mean) / deviation * weight[d] + bias[d]) + D[d] * x[b, t, d]
                assert abs(y[b, t, d] - expected) < 1e-12


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_equals_reference_with_every_gradient(shape):
    leaves = inputs(shape)
    expected = readout_and_gradients(leaves, "reference")
    for name, value in readout_and_gradients(leaves, "cpu").items():
        assert_close(value, expected[name], name)


def test_gradcheck_of_the_kernel():
    leaves = [x.requires_grad_() for x in inputs((2, 3, 5))]
    assert gradcheck(lambda *a: state_readout(*a, backend="cpu"), leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_as_good_as_the_reference(dtype):
    h, x, C, *parameters = inputs((2, 50, 48), torch.float32)
    leaves = [h.to(dtype), x.to(dtype), C.to(dtype), *parameters]
    exact = readout_and_gradients([v.double() for v in leaves], "reference")
    same = readout_and_gradients(leaves, "reference")
    for name, value in readout_and_gradients(leaves, "cpu").items():
        assert value.dtype == same[name].dtype
        assert_as_good_as(value, same[name], exact[name], name)


def test_same_bits_for_any_number_of_threads_and_strided_inputs():
    h, x, C, *parameters = inputs((3, 200, 24), torch.float32)
    expected = readout_and_gradients([h, x, C, *parameters], "cpu")
    torch.set_num_threads(2)
    try:
        strided = torch.stack([C, C], dim=-1)[..., 0], torch.stack([x, x], dim=2)[:, :, 1]
        actual = readout_and_gradients([h, strided[1], strided[0], *parameters], "cpu")
    finally:
        torch.set_num_threads(1)
    for name, value in actual.items():
        assert torch.equal(value, expected[name]), name


def test_opcheck_and_compile():
    leaves = [v.requires_grad_() for v in inputs((2, 9, 8), torch.float32)]
    opcheck(torch.ops.tree_ssm.state_readout.default, (*leaves, 1e-5))
    compiled = torch.compile(state_readout, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(compiled(*leaves), state_readout(*leaves))


def test_empty_batch():
    h, x, C, *parameters = inputs((0, 4, 8))
    for name, value in readout_and_gradients([h, x, C, *parameters], "cpu").items():
        assert value.numel() == 0 or torch.equal(value, torch.zeros(8, dtype=torch.float64)), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h": torch.zeros(2, 3, 5)}, "h must have x's shape"),
        ({"C": torch.zeros(2, 3, 1)}, r"C must be \[B, L\]"),
        ({"D": torch.zeros(1, 4)}, r"D must be \[D\] with D = 4"),
        ({"x": torch.zeros(2, 3, 4, dtype=torch.int64)}, "x must be real"),
        ({"h": torch.zeros(2, 3, 4, dtype=torch.float64)}, "h must be torch.float32"),
        ({"weight": torch.zeros(4, device="meta")}, "weight is on meta but x is on cpu"),
        ({"backend": "fast"}, "backend must be one of"),
    ],
)
def test_bad_input_is_named(change, message):
    names = ("h", "x", "C", "D", "weight", "bias")
    arguments = dict(zip(names, inputs((2, 3, 4), torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        state_readout(**arguments)
