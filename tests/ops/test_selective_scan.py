"""Tests of the selective scan: brute force, reference, C++ kernel, registration, low precision, bad input."""

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from oracles.selective_scans import NAMES, make_inputs, make_order, operator_arguments, run_with_gradients
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from ssm_core import _ext
from ssm_core.ops import directional_scan, registry, selective_scan
from ssm_core.testing import assert_as_good_as, assert_close, relative_error


def dense_sum(u, delta, A, B, C, D):
    """Return y_t = Σ_{s ≤ t} C_t · exp(A Σ_{s < r ≤ t} Δ_r) Δ_s B_s u_s + D u_t of one sequence as an L × L sum."""
    y = D * u
    for t in range(len(u)):
        for s in range(t + 1):
            decay = torch.exp(A * delta[s + 1 : t + 1].sum(0)[:, None])  # [D, N]
            y[t] += (decay * B[s] * C[t]).sum(1) * delta[s] * u[s]
    return y


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_matches_the_dense_sum_along_any_order(backend):
    x, delta, A, B, C, D, bias = make_inputs(2, 9, 5, 2, 3, grad=False)
    order, reverse = make_order(2, 2, 9), (False, True)
    y = directional_scan(x, delta, A, B, C, D, bias, order=order, reverse=reverse, backend=backend)
    expected = torch.zeros_like(x)
    dt = F.softplus(delta + bias[:, None])
    for b in range(2):
        for k in range(2):
            steps = order[b, k].flip(0) if reverse[k] else order[b, k]
            expected[b, steps] += dense_sum(x[b, steps], dt[b, k, steps], A[k], B[b, k, steps], C[b, k, steps], D[k])
    assert_close(y, expected)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_constant_step_is_the_recursive_filter_of_scipy(backend):
    rng = np.random.default_rng(0)
    u, step, a = rng.standard_normal(200), 0.3, -0.7
    expected = scipy.signal.lfilter([step], [1, -np.exp(step * a)], u)
    tensor = torch.from_numpy(u)[None, None]
    one = torch.ones_like(tensor)
    y = selective_scan(tensor, one * step, torch.full((1, 1), a, dtype=tensor.dtype), one, one, backend=backend)
    assert_close(y[0, 0], torch.from_numpy(expected))


@pytest.mark.parametrize("channels", [1, 17, 32, 70])
@pytest.mark.parametrize("states", [1, 4])
@pytest.mark.parametrize("length", [1, 2, 63])
def test_kernel_equals_reference_with_every_gradient(length, states, channels):
    inputs = make_inputs(2, length, channels, 3, states)
    options = {"order": make_order(2, 3, length), "reverse": (False, True, False)}
    actual = run_with_gradients(inputs, **options, backend="cpu")
    expected = run_with_gradients(inputs, **options, backend="reference")
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        assert_close(a, e, name)


@pytest.mark.parametrize("shape", ["[L]", "[K, L]", "[B, K, L]", "none"])
def test_every_form_of_order(shape):
    inputs = make_inputs(2, 12, 6, 2, 2)
    full = make_order(2, 2, 12)
    order = {"[L]": full[0, 0], "[K, L]": full[0], "[B, K, L]": full, "none": None}[shape]
    actual = run_with_gradients(inputs, order=order, backend="cpu")
    expected = run_with_gradients(inputs, order=order, backend="reference")
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        assert_close(a, e, name)


def test_optional_parameters_may_be_left_out():
    inputs = make_inputs(2, 12, 6, 2, 2)[:5]
    for name, a, e in zip(
        NAMES[:6],
        run_with_gradients(inputs, backend="cpu"),
        run_with_gradients(inputs, backend="reference"),
        strict=True,
    ):
        assert_close(a, e, name)


def test_strided_views_need_no_copy_and_give_the_same():
    x, delta, A, B, C, D, bias = make_inputs(2, 20, 8, 3, 2, grad=False)
    packed = torch.cat([B, C], dim=-1).transpose(1, 2).contiguous().transpose(1, 2)  # one projection returns this
    strided_delta = delta.transpose(0, 1).contiguous().transpose(0, 1)
    y = directional_scan(x, strided_delta, A, *packed.split(2, dim=-1), D, bias, backend="cpu")
    assert torch.equal(y, directional_scan(x, delta, A, B, C, D, bias, backend="cpu"))


@pytest.mark.parametrize("form", ["ungrouped", "grouped", "constant", "mixed"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_mamba_signature(form, backend):
    batch, channels, states, length, groups = 2, 12, 3, 15, 4
    u, z = torch.randn(2, batch, channels, length, dtype=torch.float64)
    delta = torch.rand(batch, channels, length, dtype=torch.float64)
    A = -torch.rand(channels, states, dtype=torch.float64)
    D, bias = torch.randn(2, channels, dtype=torch.float64)
    shapes = {"ungrouped": (batch, states, length), "grouped": (batch, groups, states, length)}
    B = torch.randn(shapes.get(form, (channels, states)), dtype=torch.float64)
    C = torch.randn(shapes["grouped"] if form == "mixed" else B.shape, dtype=torch.float64)

    def per_channel(x):  # bring every form to [B, D, N, L]
        if x.dim() == 2:
            return x[None, :, :, None].expand(batch, channels, states, length)
        return (x if x.dim() == 4 else x[:, None]).repeat_interleave(channels // (x.shape[1] if x.dim() == 4 else 1), 1)

    B4, C4 = per_channel(B), per_channel(C)
    dt = F.softplus(delta + bias[:, None])
    h = torch.zeros(batch, channels, states, dtype=torch.float64)
    expected = torch.zeros_like(u)
    for t in range(length):
        h = torch.exp(dt[:, :, t, None] * A) * h + dt[:, :, t, None] * B4[..., t] * u[:, :, t, None]
        expected[:, :, t] = (h * C4[..., t]).sum(-1) + D * u[:, :, t]
    y, last = selective_scan(u, delta, A, B, C, D, z, bias, True, True, backend=backend)
    assert_close(y, expected * F.silu(z))
    assert_close(last, h)


def test_order_and_reverse_of_the_mamba_signature_equal_gathering():
    u, delta, z = torch.randn(3, 2, 6, 10, dtype=torch.float64)
    A = -torch.rand(6, 2, dtype=torch.float64)
    B, C = torch.randn(2, 2, 3, 2, 10, dtype=torch.float64)
    order = make_order(2, 1, 10)[:, 0]
    back = order.argsort(1)[:, None].expand_as(u)

    def seq(x):
        return x.gather(-1, order.view(2, *[1] * (x.dim() - 2), 10).expand_as(x))

    plain = selective_scan(seq(u), seq(delta), A, seq(B), seq(C), z=seq(z), delta_softplus=True)
    fused = selective_scan(u, delta, A, B, C, z=z, delta_softplus=True, order=order)
    assert_close(fused, plain.gather(-1, back))
    flipped = selective_scan(u, delta, A, B, C, reverse=True, delta_softplus=True)
    by_hand = selective_scan(u.flip(-1), delta.flip(-1), A, B.flip(-1), C.flip(-1), delta_softplus=True).flip(-1)
    assert_close(flipped, by_hand)


def test_gradient_of_the_last_state():
    u, delta = torch.randn(2, 2, 6, 10, dtype=torch.float64)
    A = -torch.rand(6, 2, dtype=torch.float64)
    B, C = torch.randn(2, 2, 2, 10, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (u, delta, A, B)]

    def gradients(backend):
        _, last = selective_scan(*leaves, C, delta_softplus=True, return_last_state=True, backend=backend)
        return torch.autograd.grad(last.sin().sum(), leaves)

    for a, e in zip(gradients("cpu"), gradients("reference"), strict=True):
        assert_close(a, e)


def test_gradcheck_on_the_kernel():
    inputs = make_inputs(2, 4, 3, 2, 2)
    order = make_order(2, 2, 4)

    def scan(*args):
        return directional_scan(*args, order=order, reverse=(True, False), backend="cpu")

    assert torch.autograd.gradcheck(scan, inputs)


def test_opcheck():
    for arguments in operator_arguments("cpu"):
        opcheck(torch.ops.ssm_core.selective_scan.default, arguments)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_compiles_without_a_graph_break(backend):
    inputs = make_inputs(2, 6, 4, 2, 1, dtype=torch.float32)
    order = make_order(2, 2, 6)

    def loss(*args):
        return directional_scan(*args, order=order, reverse=(False, True), backend=backend).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for a, e in zip(
        torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(loss(*inputs), inputs), strict=True
    ):
        assert_close(a, e)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("states", [1, 4])
def test_low_precision_is_as_good_as_the_reference(dtype, states):
    inputs = make_inputs(2, 150, 24, 2, states, dtype=dtype)
    exact = run_with_gradients([x.detach().double().requires_grad_() for x in inputs], backend="reference")
    same_dtype = run_with_gradients(inputs, backend="reference")
    actual = run_with_gradients(inputs, backend="cpu")
    for name, a, s, e in zip(NAMES, actual, same_dtype, exact, strict=True):
        assert a.dtype == s.dtype
        assert_as_good_as(a, s, e, name)


def test_float_exponential_and_softplus_over_their_whole_range():
    """One scan step shows Δ = softplus(x), and two show exp(Δ·A). Values range from subnormal to saturated."""
    x = torch.cat([torch.linspace(-60, 60, 4001), torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])])
    one = torch.ones(1, 1, 1, len(x), dtype=torch.float32)
    # One step gives y = Δ·B·u·C = softplus(x).
    y = directional_scan(one[:, 0], x.view(1, 1, 1, -1), -one[0].transpose(1, 2), one[..., :1], one[..., :1])
    assert torch.allclose(y.flatten().double(), F.softplus(x.double(), threshold=1000), rtol=1e-6, atol=2e-38)
    # Two steps with Δ = 1 and an input of 0 at the second give h = exp(Δ·A)·1.
    rates = torch.linspace(0, 87, 3001)
    delta = torch.full((1, 2, len(rates)), float(np.log(np.e - 1)))[:, None]  # softplus = 1
    u = torch.stack([torch.ones_like(rates), torch.zeros_like(rates)])[None]
    ones = torch.ones(1, 1, 2, 1)
    y = directional_scan(u, delta, -rates.view(1, -1, 1), ones, ones)
    assert torch.allclose(y[0, 1].double(), torch.exp(-rates.double()), rtol=1e-5, atol=1e-38)


def test_nan_and_huge_inputs_stay_in_their_own_channel():
    inputs = make_inputs(1, 6, 4, 1, 1, dtype=torch.float32, grad=False)
    clean = directional_scan(*inputs, backend="cpu")
    inputs[0][0, 2, 1] = float("nan")
    y = directional_scan(*inputs, backend="cpu")
    assert y[0, 2:, 1].isnan().all()
    assert torch.equal(y[..., [0, 2, 3]], clean[..., [0, 2, 3]])


def test_same_bits_for_any_number_of_threads():
    inputs = make_inputs(3, 40, 70, 2, 2, dtype=torch.float32)
    runs, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        runs.append(run_with_gradients(inputs, backend="cpu"))
    torch.set_num_threads(before)
    for a, e in zip(*runs, strict=True):
        assert torch.equal(a, e)


def test_autocast_reads_tokens_in_low_precision_and_keeps_parameters_in_float32():
    inputs = make_inputs(2, 30, 16, 2, 1, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = directional_scan(*inputs)
    assert y.dtype == torch.bfloat16
    gradients = torch.autograd.grad(y.float().square().sum(), inputs)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)
    assert relative_error(y.float(), directional_scan(*inputs)) < 1e-2


def test_flops_follow_the_papers_count():
    from torch.utils.flop_counter import FlopCounterMode

    inputs = make_inputs(2, 12, 6, 3, 4, dtype=torch.float32, grad=False)
    with FlopCounterMode(display=False) as counter:
        directional_scan(*inputs, backend="cpu")
    assert counter.get_total_flops() == 2 * 3 * (9 * 2 * 12 * 6 * 4 + 2 * 12 * 6)


def test_without_the_library_the_reference_runs_with_one_warning(monkeypatch):
    inputs = make_inputs(1, 5, 3, 1, 1, grad=False)
    expected = directional_scan(*inputs, backend="reference")
    monkeypatch.setattr(registry, "_COMPILED", {})
    _ext._warn_slow_once.cache_clear()
    with pytest.warns(UserWarning, match="directional_scan has no compiled kernel for cpu here.*make setup"):
        assert torch.equal(directional_scan(*inputs), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 4)}, r"x must be \[B, L, D\], got \(3, 4\)"),
        ({"delta": torch.zeros(1, 1, 5, 2)}, r"delta must be \[B, K, L, D\]"),
        ({"A": torch.zeros(1, 3)}, r"A must be real \[K, D, N\]"),
        ({"A": torch.zeros(1, 3, 2, dtype=torch.complex64)}, r"A must be real .* got torch.complex64"),
        ({"B": torch.zeros(1, 1, 5, 3)}, r"B must be \[B, K, L, N\] = \(1, 1, 5, 2\), got \(1, 1, 5, 3\)"),
        ({"D": torch.zeros(3)}, r"D must be \[K, D\] = \(1, 3\)"),
        ({"order": torch.zeros(4, dtype=torch.int64)}, r"order must be an int64 .* got torch.int64 \(4,\)"),
        ({"order": torch.zeros(5)}, r"order must be an int64 .* got torch.float32"),
        ({"reverse": (True, False)}, r"reverse must have 1 flags, got 2"),
        ({"backend": "gpu"}, r"backend must be one of auto, cpu, cuda, reference, got 'gpu'|got 'gpu'"),
        ({"backend": "cuda"}, r"backend 'cuda' was asked for but the tensors are on cpu"),
    ],
)
def test_bad_input_gets_one_sentence(change, message):
    x, delta, A, B, C, D, bias = make_inputs(1, 5, 3, 1, 2, dtype=torch.float32, grad=False)
    arguments = {"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": bias, **change}
    with pytest.raises(ValueError, match=f"directional_scan: {message}"):
        directional_scan(**arguments)


def test_order_out_of_range_is_an_error_and_not_a_crash():
    inputs = make_inputs(1, 5, 3, 1, 2, dtype=torch.float32, grad=False)
    with pytest.raises(IndexError, match="order must hold token indices from 0 to 4"):
        directional_scan(*inputs, order=torch.tensor([0, 1, 2, 3, 5]), backend="cpu")


def test_groups_that_do_not_fit_are_named():
    u = torch.zeros(1, 6, 4)
    A = torch.zeros(6, 2)
    with pytest.raises(ValueError, match="selective_scan: B and C must be"):
        selective_scan(u, u, A, torch.zeros(1, 4, 2, 4), torch.zeros(1, 4, 2, 4))
    with pytest.raises(ValueError, match="selective_scan: B and C must have the same number of groups"):
        selective_scan(u, u, A, torch.zeros(1, 2, 4), torch.zeros(1, 3, 2, 4))


def test_values_are_not_read_on_the_host(monkeypatch):
    """A call that reads a value waits for the device. Formatting an error message that is never shown would do so."""
    draw = torch.Generator().manual_seed(0)
    u, delta, B, C = (torch.rand(1, 4, 8, generator=draw) for _ in range(4))
    A, D, delta_bias = -torch.rand(4, 4, generator=draw), torch.ones(4), torch.zeros(4)

    class NothingRead(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert function is not torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    def printed(*args, **options):
        raise AssertionError("a tensor is written into a text")

    # Dispatch modes are off while a tensor is printed, so printing needs a check of its own.
    monkeypatch.setattr(torch._tensor_str, "_str", printed)
    with NothingRead():
        selective_scan(u, delta, A, B, C, D=D, delta_bias=delta_bias, delta_softplus=True, return_last_state=True)
