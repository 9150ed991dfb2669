"""Tests of the backend "mamba_ssm": the layout of its arguments, and the package's kernel where it is installed."""

import importlib
import inspect
import sys

import pytest
import torch
from oracles import mamba_interface
from oracles.gradients import with_gradients
from oracles.selective_scans import NAMES, make_inputs, make_order, run_with_gradients

from ssm_core.ops import directional_scan, selective_scan
from ssm_core.testing import assert_as_good_as, assert_close

PACKAGE = "mamba_ssm.ops.selective_scan_interface"


@pytest.fixture
def documented(monkeypatch):
    """Replace the package by a module with its documented interface."""
    monkeypatch.setitem(sys.modules, PACKAGE, mamba_interface)


def test_the_oracle_is_the_recurrence_by_hand():
    """One channel with one state takes two steps.

    They are h₁ = Δ₁B₁u₁ and h₂ = exp(Δ₂A)h₁ + Δ₂B₂u₂. The output y = C h + D u is multiplied by SiLU(z).
    """
    u, delta, B, C, z = (torch.tensor([[x]]) for x in ([1.0, 2.0], [0.5, 0.25], [3.0, 1.0], [2.0, 4.0], [1.0, 0.0]))
    A, D = torch.tensor([[-1.0]]), torch.tensor([0.5])
    first = 0.5 * 3.0 * 1.0
    second = torch.exp(torch.tensor(-0.25)).item() * first + 0.25 * 1.0 * 2.0
    y, last = mamba_interface.selective_scan_fn(u, delta, A, B, C, D, return_last_state=True)
    assert_close(y, torch.tensor([[[2 * first + 0.5, 4 * second + 1.0]]]))
    assert_close(last, torch.tensor([[[second]]]))
    gated = mamba_interface.selective_scan_fn(u, delta, A, B, C, D, z)
    assert_close(gated, y * torch.tensor([0.7310586, 0.0]))
    biased = mamba_interface.selective_scan_fn(u, delta - 1, A, B, C, D, delta_bias=torch.ones(1))
    assert_close(biased, y)


ORDER = torch.tensor([3, 1, 4, 0, 8, 5, 2, 7, 6])


@pytest.mark.usefixtures("documented")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("order", [None, ORDER], ids=["row by row", "any order"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_of_channels_in_any_order(groups, order, reverse):
    assert_reference_in_groups(groups, order=order, reverse=reverse)


@pytest.mark.usefixtures("documented")
def test_groups_of_channels_in_opposite_directions():
    assert_reference_in_groups(2, reverse=[True, False])


def assert_reference_in_groups(groups, **options):
    u, delta = torch.randn(2, 2, 4, 9)
    B, C = torch.randn(2, 2, groups, 3, 9)
    A, (D, bias) = -torch.rand(4, 3), torch.randn(2, 4)
    results = [
        selective_scan(u, delta, A, B, C, D, None, bias, True, True, backend=backend, **options)
        for backend in ("mamba_ssm", "reference")
    ]
    for a, e in zip(*results, strict=True):
        assert_close(a, e)


@pytest.mark.usefixtures("documented")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_directions_over_one_input_with_every_gradient(dtype):
    inputs = make_inputs(2, 12, 6, 3, 2, dtype=dtype)
    options = {"order": make_order(2, 3, 12), "reverse": (False, True, True)}
    actual = run_with_gradients(inputs, **options, backend="mamba_ssm")
    same = run_with_gradients(inputs, **options, backend="reference")
    exact = run_with_gradients([x.detach().double() for x in inputs], **options, backend="reference")
    for name, a, s, e in zip(NAMES, actual, same, exact, strict=True):
        assert a.dtype == s.dtype
        assert_as_good_as(a, s, e, name)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    inputs = make_inputs(1, 3, 2, 1, 1, dtype=torch.float32)
    with pytest.raises(ImportError, match="selective_scan: backend 'mamba_ssm' needs the mamba-ssm package"):
        directional_scan(*inputs, backend="mamba_ssm")


@pytest.mark.usefixtures("documented")
def test_what_the_package_cannot_differentiate_is_refused():
    inputs = make_inputs(1, 5, 3, 2, 2, dtype=torch.float32)

    def scan(*values):
        return directional_scan(*values, backend="mamba_ssm")

    y = scan(*inputs)
    for i in range(len(inputs)):
        (gradient,) = torch.autograd.grad(y.sum(), inputs[i], create_graph=True)
        for x in inputs:
            with pytest.raises(NotImplementedError, match=r"'mamba_ssm' has no second derivative; use backend='auto'"):
                torch.autograd.grad(y.sum() + gradient.square().sum(), x, retain_graph=True)
    with torch.autograd.forward_ad.dual_level():
        for i, x in enumerate(inputs):
            duals = [*inputs[:i], torch.autograd.forward_ad.make_dual(x, x), *inputs[i + 1 :]]
            with pytest.raises(NotImplementedError, match=r"has no forward mode; use backend='auto'"):
                scan(*duals)
    mapped = [torch.stack([x.detach(), x.detach()]) for x in inputs]
    for transform, values in (
        (torch.vmap(scan), mapped),
        (torch.func.jacfwd(scan), inputs),
        (torch.func.jacrev(scan), inputs),
    ):
        with pytest.raises(NotImplementedError, match=r"has no transforms of torch\.func; use backend='auto'"):
            transform(*values)


# The tests below compare with the package itself. Its kernels use the GPU's fast exponential, hence the tolerances.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}


@pytest.mark.gpu
@pytest.mark.needs("mamba_ssm")
def test_the_package_has_the_documented_signature():
    function = importlib.import_module(PACKAGE).selective_scan_fn
    expected = inspect.signature(mamba_interface.selective_scan_fn).parameters.values()
    found = list(inspect.signature(function).parameters.values())[: len(expected)]  # newer releases add some
    assert [(p.name, p.default) for p in found] == [(p.name, p.default) for p in expected]


@pytest.mark.gpu
@pytest.mark.needs("mamba_ssm")
@pytest.mark.parametrize("groups", [1, 2])
def test_the_package_computes_what_it_documents(groups):
    u, delta, z = torch.randn(3, 2, 8, 50)
    B, C = torch.randn(2, 2, groups, 4, 50)
    A, (D, bias) = -torch.rand(8, 4), torch.randn(2, 8)
    values = [x.cuda() for x in (u, delta, A, B, C, D, z, bias)]
    g = torch.randn(u.shape).cuda()
    results = [
        with_gradients(lambda *x, scan=scan: scan(*x, delta_softplus=True), values, g)
        for scan in (importlib.import_module(PACKAGE).selective_scan_fn, mamba_interface.selective_scan_fn)
    ]
    for a, e in zip(*results, strict=True):
        assert_close(a, e, tolerance=TOLERANCE[torch.float32])


@pytest.mark.gpu
@pytest.mark.needs("mamba_ssm")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_package_agrees_with_our_kernel(dtype):
    inputs = make_inputs(2, 150, 24, 2, 4, dtype=dtype, device="cuda")
    options = {"order": make_order(2, 2, 150, device="cuda"), "reverse": (False, True)}
    expected = run_with_gradients([x.detach().double() for x in inputs], **options, backend="cuda")
    for name, a, e in zip(NAMES, run_with_gradients(inputs, **options, backend="mamba_ssm"), expected, strict=True):
        assert_close(a, e, name, TOLERANCE[dtype])
