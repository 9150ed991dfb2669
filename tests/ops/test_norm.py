"""Tests of the norms: definition, CPU kernel, every gradient, low precision, determinism, the form in ONNX."""

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from oracles.norms import GATED, NORMS, RESIDUAL, inputs, norm_and_gradients, norm_of
from torch.library import opcheck

from ssm_core.ops import (
    gated_layer_norm,
    gated_rms_norm,
    layer_norm,
    residual_layer_norm,
    residual_rms_norm,
    rms_norm,
)
from ssm_core.testing import assert_as_good_as, assert_close

SHAPES = [(2, 3, 3), (1, 1, 8), (3, 7, 16), (2, 13, 37), (2, 2, 5, 96), (5, 160), (1, 3, 4097)]
HALF_TYPES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", NORMS)
def test_is_the_formula(name, backend):
    x, residual, scale, weight, bias = leaves = inputs((2, 3, 4))
    results = norm_of(name, eps=0.1, backend=backend)(*leaves)
    y = results[0] if name in RESIDUAL else results
    for b in range(2):
        for t in range(3):
            row = [x[b, t, c] * scale[b] + residual[b, t, c] if name in RESIDUAL else x[b, t, c] for c in range(4)]
            mean = sum(row) / 4 if "layer" in name else 0
            deviation = (sum((v - mean) ** 2 for v in row) / 4 + 0.1).sqrt()
            for c in range(4):
                shift = bias[c] if "layer" in name else 0
                z = residual[b, t, c]
                factor = z / (1 + (-z).exp()) if name in GATED else 1
                assert abs(y[b, t, c] - ((row[c] - mean) / deviation * weight[c] + shift) * factor) < 1e-12
                if name in RESIDUAL:
                    assert abs(results[1][b, t, c] - row[c]) < 1e-12


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_kernel_equals_reference_with_every_gradient(name, shape):
    leaves = inputs(shape)
    for both in (True, False):
        expected = norm_and_gradients(name, leaves, backend="reference", both=both)
        for value_of, value in norm_and_gradients(name, leaves, backend="cpu", both=both).items():
            assert_close(value, expected[value_of], value_of)


def test_equals_the_norms_of_pytorch_and_timm():
    x, residual, _, weight, bias = inputs((2, 5, 7, 48), torch.float32)
    expected = F.layer_norm(x, (48,), weight, bias, 1e-5)
    assert_close(layer_norm(x, weight, bias), expected)
    assert_close(layer_norm(x, weight), F.layer_norm(x, (48,), weight, None, 1e-5))
    assert_close(rms_norm(x, weight), F.rms_norm(x, (48,), weight, 1e-6))
    norm = timm.layers.LayerNorm(48, eps=1e-5)
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)
    assert_close(layer_norm(x, norm.weight, norm.bias), norm(x).detach())
    normed, stream = residual_layer_norm(x, residual, weight, bias)
    assert_close(stream, x + residual)
    assert_close(normed, F.layer_norm(x + residual, (48,), weight, bias, 1e-5))
    assert_close(residual_rms_norm(x, residual, weight).normed, F.rms_norm(x + residual, (48,), weight, 1e-6))


@pytest.mark.parametrize("name", GATED)
def test_a_gate_has_the_results_and_gradients_of_a_product_with_silu(name):
    """PyTorch's operations in float64, also for gates far from zero."""
    x, gate, _, weight, bias = leaves = [v.requires_grad_() for v in inputs((3, 5, 21))]
    with torch.no_grad():
        gate.mul_(30)
    normed = F.layer_norm(x, (21,), weight, bias, 1e-5) if "layer" in name else F.rms_norm(x, (21,), weight, 1e-5)
    upstream, wanted = torch.randn_like(x), leaves[:2] + leaves[3 : 5 if "layer" in name else 4]
    expected = normed * F.silu(gate)
    y = norm_of(name)(*leaves)
    assert_close(y, expected)
    gradients = (torch.autograd.grad(value, wanted, upstream) for value in (y, expected))
    for found, of in zip(*gradients, strict=True):
        assert_close(found, of)


def test_an_rms_norm_with_a_gate_is_that_of_mamba2_with_the_norm_first():
    x, z, _, weight, _ = inputs((2, 7, 24), torch.float32)
    expected = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight * F.silu(z)
    assert_close(gated_rms_norm(x, z, weight, eps=1e-5), expected)


def test_infinite_and_missing_gates():
    x, _, _, weight, bias = inputs((1, 4), torch.float32)
    gate = torch.tensor([[float("inf"), -1e4, float("nan"), 0.0]])
    y = gated_layer_norm(x, gate, weight, bias)
    assert y[0, 0].isinf()
    assert y[0, 1].abs() < 1e-30
    assert y[0, 2].isnan()
    assert y[0, 3] == 0


@pytest.mark.parametrize("name", RESIDUAL)
def test_a_stream_alone_has_a_gradient(name):
    """A block's last branch may be read by nothing but a sum."""
    x, residual, scale, *_ = leaves = [v.requires_grad_() for v in inputs((2, 3, 4))]
    _, stream = norm_of(name)(*leaves)
    found = torch.autograd.grad(stream.sum(), (x, residual, scale))
    assert_close(found[0], scale.reshape(2, 1, 1).expand_as(x))
    assert torch.equal(found[1], torch.ones_like(x))
    assert_close(found[2], x.sum((1, 2)))


@pytest.mark.parametrize("half", HALF_TYPES, ids=str)
@pytest.mark.parametrize("wide", ["", "x", "stream", "y", "x and stream", "x and y", "stream and y"])
@pytest.mark.parametrize("name", NORMS)
def test_half_types_are_as_good_as_the_reference(name, wide, half):
    # Many samples: errors of a sum over a sample, the gradient of its scale, are compared on average.
    x, residual, *parameters = inputs((50, 4, 48), torch.float32)
    leaves = [x if "x" in wide else x.to(half), residual if "stream" in wide else residual.to(half), *parameters]
    dtype = torch.float32 if "y" in wide else half
    exact = norm_and_gradients(name, [v.double() for v in leaves], torch.float64, "reference")
    same = norm_and_gradients(name, leaves, dtype, "reference")
    for value_of, value in norm_and_gradients(name, leaves, dtype, "cpu").items():
        assert value.dtype == same[value_of].dtype
        assert_as_good_as(value, same[value_of], exact[value_of], value_of)


@pytest.mark.parametrize("name", NORMS)
def test_same_bits_for_any_number_of_threads_and_strided_inputs(name):
    leaves = inputs((3, 200, 24), torch.float32)
    expected = norm_and_gradients(name, leaves)
    strided = [torch.stack([v, v], dim=-1)[..., 0] for v in leaves]
    torch.set_num_threads(2)
    try:
        actual = norm_and_gradients(name, strided)
    finally:
        torch.set_num_threads(1)
    for value_of, value in actual.items():
        assert torch.equal(value, expected[value_of]), value_of


def test_opcheck():
    x, residual, scale, weight, bias = [v.requires_grad_() for v in inputs((2, 9, 8), torch.float32)]
    norm, residual_norm = torch.ops.ssm_core.norm.default, torch.ops.ssm_core.residual_norm.default
    opcheck(norm, (x, weight, bias, 1e-5, True, torch.bfloat16))
    opcheck(norm, (x, weight, None, 1e-5, False, torch.float32))
    opcheck(residual_norm, (x, residual, scale, weight, bias, 1e-5, True, torch.float32))
    gated_norm = torch.ops.ssm_core.gated_norm.default
    opcheck(gated_norm, (x, residual, weight, bias, 1e-5, True))
    half = x.detach().bfloat16().requires_grad_()
    opcheck(gated_norm, (half, residual.detach().bfloat16().requires_grad_(), weight, None, 1e-5, False))
    opcheck(residual_norm, (half, residual, None, weight, None, 1e-5, False, torch.bfloat16))


@pytest.mark.parametrize("name", NORMS)
def test_compiles(name):
    leaves = [v.requires_grad_() for v in inputs((2, 9, 8), torch.float32)]
    function = norm_of(name)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        for a, e in zip(compiled(*leaves), function(*leaves), strict=True):
            assert_close(a, e)


@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8), (2, 3, 0)], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_empty(name, shape):
    leaves = inputs(shape)
    for value_of, value in norm_and_gradients(name, leaves).items():
        assert not value.any(), value_of


def test_one_token_without_a_batch():
    x, residual, _, weight, bias = inputs((1, 6))
    assert_close(layer_norm(x[0], weight, bias), layer_norm(x, weight, bias)[0])
    assert_close(residual_rms_norm(x[0], residual[0], weight).stream, x[0] + residual[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"residual": torch.zeros(2, 3, 5)}, r"residual must have x's shape \(2, 3, 4\), got \(2, 3, 5\)"),
        ({"scale": torch.zeros(3)}, r"scale must be \[B\] for x \[B, ..., C\] of \(2, 3, 4\), got \(3,\)"),
        ({"weight": torch.zeros(1, 4)}, r"weight must be \[C\] with C = 4"),
        ({"bias": torch.zeros(5)}, r"bias must be \[C\] with C = 4"),
        ({"x": torch.zeros(2, 3, 4, dtype=torch.int64)}, "each float32 or one half type, got x torch.int64"),
        ({"residual": torch.zeros(2, 3, 4, dtype=torch.float64)}, "one half type, got x torch.float32, residual torch"),
        ({"x": torch.zeros(2, 3, 4, dtype=torch.half), "dtype": torch.bfloat16}, "one half type, got x torch.float16"),
        ({"weight": torch.zeros(4, device="meta")}, "weight is on meta but x is on cpu"),
        ({"x": torch.zeros(())}, "got a tensor without dimensions"),
        ({"backend": "fast"}, "backend must be one of"),
        ({"backend": "cuda"}, "the tensors are on cpu"),
    ],
)
def test_bad_input_is_named(change, message):
    names = ("x", "residual", "scale", "weight", "bias")
    arguments = dict(zip(names, inputs((2, 3, 4), torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        residual_layer_norm(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gate": torch.zeros(2, 3, 5)}, r"gate must have x's shape \(2, 3, 4\), got \(2, 3, 5\)"),
        ({"gate": torch.zeros(2, 3, 4, dtype=torch.float64)}, "one half type, got x torch.float32, gate torch.float64"),
        ({"gate": torch.zeros(2, 3, 4, device="meta")}, "gate is on meta but x is on cpu"),
        ({"bias": torch.zeros(5)}, r"bias must be \[C\] with C = 4"),
    ],
)
def test_a_bad_gate_is_named(change, message):
    x, gate, _, weight, bias = inputs((2, 3, 4), torch.float32)
    with pytest.raises(ValueError, match=message):
        gated_layer_norm(**{"x": x, "gate": gate, "weight": weight, "bias": bias} | change)


def test_the_operators_name_a_gate_that_does_not_fit():
    x, gate, _, weight, bias = inputs((2, 3, 4), torch.float32)
    with pytest.raises(RuntimeError, match="gate must"):
        torch.ops.ssm_core.gated_norm(x, gate.bfloat16(), weight, bias, 1e-5, True)
    with pytest.raises(RuntimeError, match="grad_y must"):
        torch.ops.ssm_core.gated_norm_backward(x.bfloat16(), x, gate, weight, bias, 1e-5, True)


def test_a_scale_needs_samples():
    with pytest.raises(ValueError, match=r"scale must be \[B\] for x \[B, ..., C\] of \(4,\)"):
        residual_layer_norm(torch.zeros(4), torch.zeros(4), torch.ones(4), scale=torch.ones(4))
