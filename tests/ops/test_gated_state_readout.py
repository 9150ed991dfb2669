"""Tests of the state's readout with a gated norm: definition, CPU kernel, every gradient, low precision, strides."""

import pytest
import torch
from oracles.gated_readout import halved, inputs, readout_and_gradients, two_operators
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import gated_state_readout

SHAPES = [(2, 3, 3), (1, 1, 5), (3, 7, 16), (2, 13, 37), (2, 70, 160)]


def normed(row, eps, weight, bias):
    mean = sum(row) / len(row)
    deviation = (sum((v - mean) ** 2 for v in row) / len(row) + eps).sqrt()
    return [(v - mean) / deviation * w + b for v, w, b in zip(row, weight, bias, strict=True)]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_is_the_formula(backend):
    h, x, C, D, weight, bias, gate, out_weight, out_bias = leaves = inputs((2, 3, 4))
    y = gated_state_readout(*leaves, eps=0.1, out_eps=0.2, backend=backend)
    for b in range(2):
        for t in range(3):
            state = normed(h[b, t], 0.1, weight, bias)
            r = [C[b, t] * n + D[d] * x[b, t, d] for d, n in enumerate(state)]
            for d, n in enumerate(normed(r, 0.2, out_weight, out_bias)):
                z = gate[b, t, d]
                assert abs(y[b, t, d] - n * z / (1 + (-z).exp())) < 1e-12


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_equals_reference_with_every_gradient(shape):
    leaves = inputs(shape)
    expected = readout_and_gradients(leaves, "reference")
    for name, value in readout_and_gradients(leaves, "cpu").items():
        assert_close(value, expected[name], name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_kernel_equals_the_two_operators_to_the_last_bit(dtype):
    leaves = halved(inputs((3, 90, 48), torch.promote_types(dtype, torch.float32)), dtype)
    expected = readout_and_gradients(leaves, "cpu", function=two_operators)
    for name, value in readout_and_gradients(leaves, "cpu").items():
        if name.startswith("grad_out"):  # the two operators add up the parts of rows in another order
            assert_close(value, expected[name], name)
        else:
            assert torch.equal(value, expected[name]), name


def test_gradcheck_of_the_kernel():
    leaves = [x.requires_grad_() for x in inputs((2, 3, 5))]
    assert gradcheck(lambda *a: gated_state_readout(*a, backend="cpu"), leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_as_good_as_the_reference(dtype):
    leaves = halved(inputs((2, 50, 48), torch.float32), dtype)
    exact = readout_and_gradients([v.double() for v in leaves], "reference")
    same = readout_and_gradients(leaves, "reference")
    for name, value in readout_and_gradients(leaves, "cpu").items():
        assert value.dtype == same[name].dtype
        assert_as_good_as(value, same[name], exact[name], name)


def test_a_gate_may_be_any_part_of_a_wider_map():
    leaves = inputs((3, 7, 24), torch.float32)
    gate, upstream = leaves[6], torch.randn(3, 7, 24)

    def results_with(gate):
        arguments = (*leaves[:6], 1e-5, gate, *leaves[7:], 1e-5)
        y = torch.ops.tree_ssm.gated_state_readout(*arguments)
        return y, *torch.ops.tree_ssm.gated_state_readout_backward(upstream, *arguments)

    wide = torch.cat([torch.full_like(gate, float("nan")), gate], dim=-1)
    by_token = gate.transpose(0, 1).contiguous().transpose(0, 1)
    for other in (wide[..., 24:], torch.stack([gate, gate], dim=-1)[..., 0], by_token):
        assert not other.is_contiguous()
        assert all(torch.equal(a, b) for a, b in zip(results_with(other), results_with(gate), strict=True))


def test_an_expanded_gate():
    leaves = inputs((2, 5, 6))
    leaves[6] = leaves[6][:1, :1].expand(2, 5, 6)
    expected = gated_state_readout(*leaves, backend="reference")
    assert_close(gated_state_readout(*leaves, backend="cpu"), expected)


def test_same_bits_for_any_number_of_threads_and_strided_inputs():
    leaves = inputs((3, 200, 24), torch.float32)
    expected = readout_and_gradients(leaves, "cpu")
    torch.set_num_threads(2)
    try:
        strided = [v if v.dim() == 1 else torch.stack([v, v], dim=-1)[..., 0] for v in leaves]
        actual = readout_and_gradients(strided, "cpu")
    finally:
        torch.set_num_threads(1)
    for name, value in actual.items():
        assert torch.equal(value, expected[name]), name


def test_opcheck_and_compile():
    leaves = [v.requires_grad_() for v in inputs((2, 9, 8), torch.float32)]
    opcheck(torch.ops.tree_ssm.gated_state_readout.default, (*leaves[:6], 1e-5, *leaves[6:], 1e-5))
    compiled = torch.compile(gated_state_readout, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(compiled(*leaves), gated_state_readout(*leaves))


@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8), (2, 3, 0)], ids=str)
def test_empty(shape):
    for name, value in readout_and_gradients(inputs(shape), "cpu").items():
        assert not value.any(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h": torch.zeros(2, 3, 5)}, "h must have x's shape"),
        ({"gate": torch.zeros(2, 3, 5)}, r"gate must have x's shape \(2, 3, 4\), got \(2, 3, 5\)"),
        ({"C": torch.zeros(2, 3, 1)}, r"C must be \[B, L\]"),
        ({"D": torch.zeros(1, 4)}, r"D must be \[D\] with D = 4"),
        ({"out_bias": torch.zeros(5)}, r"out_bias must be \[D\] with D = 4"),
        ({"x": torch.zeros(2, 3, 4, dtype=torch.int64)}, "x must be real"),
        ({"h": torch.zeros(2, 3, 4, dtype=torch.float64)}, "h must be torch.float32"),
        ({"gate": torch.zeros(2, 3, 4, dtype=torch.bfloat16)}, "gate must be torch.float32"),
        ({"out_weight": torch.zeros(4, device="meta")}, "out_weight is on meta but x is on cpu"),
        ({"backend": "fast"}, "backend must be one of"),
        ({"backend": "cuda"}, "the tensors are on cpu"),
    ],
)
def test_bad_input_is_named(change, message):
    names = ("h", "x", "C", "D", "weight", "bias", "gate", "out_weight", "out_bias")
    arguments = dict(zip(names, inputs((2, 3, 4), torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        gated_state_readout(**arguments)


def test_the_operators_name_what_does_not_fit():
    leaves = inputs((2, 3, 4), torch.float32)
    operators = torch.ops.tree_ssm
    with pytest.raises(RuntimeError, match="gate must be"):
        operators.gated_state_readout(*leaves[:6], 1e-5, leaves[6].bfloat16(), *leaves[7:], 1e-5)
    with pytest.raises(RuntimeError, match="out_weight must have shape"):
        operators.gated_state_readout(*leaves[:6], 1e-5, leaves[6], torch.zeros(5), leaves[8], 1e-5)
    with pytest.raises(RuntimeError, match="grad_y must be"):
        operators.gated_state_readout_backward(leaves[1].bfloat16(), *leaves[:6], 1e-5, *leaves[6:], 1e-5)
