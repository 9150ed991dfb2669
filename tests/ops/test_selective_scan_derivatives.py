"""Tests of the selective scan's derivatives of every mode and order, of torch.vmap, and of both under torch.compile."""

import importlib

import pytest
import torch
import torch.autograd.forward_ad as fwd
from oracles.derivatives import assert_compiles, assert_same_derivatives, assert_vmap_is_a_loop, tupled
from oracles.selective_scan_derivatives import CASES
from oracles.selective_scans import make_inputs, make_order
from torch import func
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from ssm_core.ops import directional_scan, selective_scan
from ssm_core.testing import assert_as_good_as, assert_close

slabs = importlib.import_module("ssm_core.ops.selective_scan.slabs")
batching = importlib.import_module("ssm_core.ops.selective_scan.batching")
recurrence = importlib.import_module("ssm_core.ops.selective_scan.recurrence")

BACKENDS = ("cpu", "reference")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_are_those_of_the_loop(backend, name):
    case = CASES[name]()
    assert_same_derivatives(case.function("cpu", backend), case.definition, case.arguments)


@pytest.mark.parametrize("name", ["one state, any order, reverse", "mamba, last state, groups, no softplus"])
def test_numerical_derivatives(name):
    case = CASES[name]()
    function, inputs = case.function("cpu", "cpu"), [x.requires_grad_() for x in case.arguments]
    gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    gradgradcheck(function, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)


def test_gradient_penalty_reaches_every_input():
    """The gradient of x alone is penalised. It depends on all inputs but D and the bias of one direction."""
    results = []
    for backend in BACKENDS:
        torch.manual_seed(0)
        inputs = make_inputs(2, 9, 5, 2, 3)
        y = directional_scan(*inputs, order=make_order(2, 2, 9), reverse=(True, False), backend=backend)
        (gradient,) = torch.autograd.grad(y.square().sum(), inputs[0], create_graph=True)
        (y.sum() + 10 * gradient.square().sum()).backward()
        results.append([x.grad for x in inputs])
    for a, e in zip(*results, strict=True):
        assert_close(a, e, tolerance=1e-11)
        assert e.abs().min() > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "in_dims",
    [(0,) * 7, (0, 1, None, 2, 0, None, None), (None, None, 0, None, None, 1, None), (-1, None, -1, 3, None, 0, 2)],
    ids=str,
)
def test_vmap_is_a_loop_over_samples(in_dims, backend):
    case = CASES["one state, any order, reverse"]()
    assert_vmap_is_a_loop(case.function("cpu", backend), case.arguments, in_dims)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["mamba, last state, gate", "mamba, last state, constant weights, reverse"])
def test_vmap_of_the_mamba_signature(name, backend):
    case = CASES[name]()
    for in_dims in ((0, 0, None, 0, 0, None, None, 0), (None, 1, 2, None, 0, 1, 0, None)):
        assert_vmap_is_a_loop(case.function("cpu", backend), case.arguments, in_dims)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vmap_over_orders(backend):
    inputs = make_inputs(2, 6, 3, 2, 2, grad=False)
    orders = torch.stack([make_order(2, 2, 6) for _ in range(3)])

    def scan(order):
        return directional_scan(*inputs, order=order, reverse=(True, False), backend=backend)

    assert_close(func.vmap(scan, 1)(orders.movedim(0, 1)), torch.stack([scan(order) for order in orders]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_vmap_in_vmap(backend):
    x, delta, *rest = make_inputs(2, 5, 3, 2, 2, grad=False)
    xs, deltas = torch.stack([x, 2 * x, -x]), torch.stack([delta, delta - 1], 1)

    def gradient(x, delta):
        return func.grad(lambda *a: directional_scan(*a, *rest, backend=backend).sin().sum(), (0, 1))(x, delta)

    actual = func.vmap(func.vmap(gradient, (None, 1)), (0, None))(xs, deltas)
    for i, x in enumerate(xs):
        for j in range(2):
            for a, e in zip(actual, gradient(x, deltas[:, j]), strict=True):
                assert_close(a[i, j], e)


def test_more_mapped_directions_than_a_call_takes(monkeypatch):
    monkeypatch.setattr(batching, "_MOST_DIRECTIONS", 5)
    case = CASES["one state, any order, reverse"]()
    assert_vmap_is_a_loop(case.function("cpu", "cpu"), case.arguments, (0, 1, None, 2, 0, None, 0), size=5)


@pytest.mark.parametrize("most_states", [1, 16, 40])
def test_slabs_change_no_derivative(monkeypatch, most_states):
    monkeypatch.setattr(slabs, "_MOST_STATES", most_states)
    for name in ("one state, any order, reverse", "mamba, last state, groups, no softplus"):
        case = CASES[name]()
        assert_same_derivatives(case.function("cpu", "cpu"), case.definition, case.arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_transforms(backend):
    case = CASES["one state, any order, reverse"]()
    assert_compiles(case.function("cpu", backend), case.arguments)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiled_forward_mode_of_autograd(compiler):
    case = CASES["one state, any order, reverse"]()
    function = case.function("cpu", "cpu")

    def tangent(*args):
        with fwd.dual_level():
            return fwd.unpack_dual(function(*(fwd.make_dual(x, 2 * x) for x in args))).tangent

    torch.compiler.reset()
    compiled = torch.compile(tangent, fullgraph=True, backend=compiler)
    expected = func.jvp(case.definition, tuple(case.arguments), tuple(2 * x for x in case.arguments))[1]
    for _ in range(2):
        assert_close(compiled(*case.arguments), expected)


def test_compiled_function_refuses_a_second_derivative():
    inputs = make_inputs(1, 4, 2, 1, 1)
    torch.compiler.reset()
    y = torch.compile(directional_scan, fullgraph=True, backend="aot_eager")(*inputs)
    (gradient,) = torch.autograd.grad(y.sin().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(gradient.sum(), inputs[1])


def test_steps_of_zero_and_decays_that_vanish():
    """Without softplus Δ may be 0, where the decay is 1, or so large that the decay is 0."""
    u, B, C = (torch.randn(1, 2, 12, dtype=torch.float64) for _ in range(3))
    delta = torch.tensor([0.0, 1e4, 0.0, 0.0, 2e4, 1e-9, 1.0, 0.0, 1e3, 0.5, 0.0, 1e4], dtype=torch.float64)
    A = torch.tensor([[-1.0, -0.2], [-2.0, -1e-6]], dtype=torch.float64)
    args = (u, delta.expand(1, 2, 12).clone(), A, B, C)

    def gradients(backend):
        def gradient(*args):
            return func.grad(lambda *a: selective_scan(*a, backend=backend).sin().sum(), (0, 1, 2, 3, 4))(*args)

        return func.jvp(gradient, args, tuple(torch.cos(x + 1) for x in args))

    for actual, expected in zip(gradients("cpu"), gradients("reference"), strict=True):
        for a, e in zip(actual, expected, strict=True):
            assert a.isfinite().all()
            assert_close(a, e, tolerance=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("batch", "channels"), [(0, 3), (2, 0)])
def test_derivatives_of_nothing(batch, channels, backend):
    inputs = make_inputs(batch, 4, channels, 2, 2)
    y = directional_scan(*inputs, order=torch.arange(4), reverse=(True, False), backend=backend)
    gradients = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    for second in (
        torch.autograd.grad(sum(g.square().sum() for g in gradients), inputs),
        func.jvp(lambda *a: directional_scan(*a, backend=backend), tuple(inputs), tuple(inputs)),
    ):
        assert all(torch.equal(x, torch.zeros_like(x)) for x in second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("states", [1, 4])
def test_low_precision_is_as_good_as_the_reference(states, dtype):
    inputs = [x.detach() for x in make_inputs(2, 70, 24, 2, states, dtype=dtype)]
    options = {"order": make_order(2, 2, 70), "reverse": (False, True)}
    along = tuple(torch.randn_like(x) for x in inputs)

    def second(backend, inputs, along):
        def loss(*a):
            return directional_scan(*a, **options, backend=backend).to(torch.float64).square().mean()

        return func.jvp(func.grad(loss, tuple(range(7))), tuple(inputs), tuple(along))[1]

    actual, same = second("cpu", inputs, along), second("reference", inputs, along)
    exact = second("reference", *([x.double() for x in values] for values in (inputs, along)))
    for a, s, e in zip(actual, same, exact, strict=True):
        assert a.dtype == s.dtype
        assert_as_good_as(a, s, e)


def test_autocast_does_not_reach_the_formulas():
    inputs = make_inputs(1, 20, 8, 2, 2, dtype=torch.float32)
    along = tuple(torch.randn_like(x) for x in inputs)

    def gradient(*args):
        return func.grad(lambda *a: directional_scan(*a).square().sum(), (1, 2))(*args)

    exact = func.jvp(gradient, tuple(inputs), along)[1]
    with torch.autocast("cpu", torch.bfloat16):
        step, decay = func.jvp(gradient, tuple(inputs), along)[1]
    assert step.dtype == decay.dtype == torch.float32
    assert_close(decay, exact[1], tolerance=2e-2)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_linear_recurrence(length, transposed):
    def by_hand(decay, drive):
        h, states = torch.zeros_like(drive[:, :, 0]), {}
        for i in reversed(range(length)) if transposed else range(length):
            before = decay[:, :, i + 1] if transposed and i + 1 < length else decay[:, :, i]
            h = states[i] = before * h + drive[:, :, i]
        return torch.stack([states[i] for i in range(length)], dim=2)

    def function(decay, drive):
        return recurrence.linear_recurrence(decay, drive, transposed)

    args = [torch.rand(1, 2, length, 1, 2, dtype=torch.float64), torch.randn(1, 2, length, 1, 2, dtype=torch.float64)]
    args[0][:, :, length // 2] = 0
    assert_same_derivatives(function, by_hand, args)
    assert_vmap_is_a_loop(function, args, (2, None))
    assert_vmap_is_a_loop(function, args, (0, -1))


def test_opcheck_of_the_recurrence():
    decay, drive = (torch.rand(1, 2, 5, 2, 2, requires_grad=True) for _ in range(2))
    for transposed in (False, True):
        opcheck(torch.ops.ssm_core.linear_recurrence, (decay, drive, transposed))


def test_unneeded_results_have_a_zero_tangent():
    case = CASES["mamba, last state, gate"]()
    function = tupled(case.function("cpu", "cpu"))
    u, delta, A, B, C, *rest = case.arguments
    y, last = func.jvp(lambda C: function(u, delta, A, B, C, *rest), (C,), (C,))[1]
    assert_close(y, case.definition(u, delta, A, B, C, torch.zeros_like(rest[0]), *rest[1:])[0])
    assert torch.equal(last, torch.zeros_like(last))
