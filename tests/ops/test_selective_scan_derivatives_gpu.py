"""Tests of the selective scan's derivatives and of torch.vmap on the GPU, at small shapes and at those of models."""

import pytest
import torch
from oracles.derivatives import assert_compiles, assert_same_derivatives, assert_vmap_is_a_loop
from oracles.selective_scan_derivatives import CASES
from oracles.selective_scans import make_inputs, make_order
from torch import func

from ssm_core.ops import directional_scan, selective_scan
from ssm_core.testing import assert_as_good_as, assert_close

pytestmark = pytest.mark.gpu

BACKENDS = ("cuda", "reference")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_are_those_of_the_loop(backend, name):
    case = CASES[name]()
    assert_same_derivatives(case.function("cuda", backend), case.definition, case.arguments, device="cuda")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "in_dims",
    [(0,) * 7, (0, 1, None, 2, 0, None, None), (None, None, 0, None, None, 1, None), (-1, None, -1, 3, None, 0, 2)],
    ids=str,
)
def test_vmap_is_a_loop_over_samples(in_dims, backend):
    case = CASES["one state, any order, reverse"]()
    assert_vmap_is_a_loop(case.function("cuda", backend), [x.cuda() for x in case.arguments], in_dims)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_transforms(backend):
    case = CASES["one state, any order, reverse"]()
    assert_compiles(case.function("cuda", backend), [x.cuda() for x in case.arguments])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("length", "channels", "directions", "states"), [(3136, 192, 1, 1), (784, 96, 4, 1), (784, 64, 2, 16)]
)
@pytest.mark.parametrize("ordered", [False, True])
def test_second_derivatives_at_the_shapes_of_models(ordered, length, channels, directions, states, dtype):
    inputs = [x.detach() for x in make_inputs(2, length, channels, directions, states, dtype=dtype)]
    along = [torch.randn_like(x) for x in inputs]
    order = make_order(2, directions, length) if ordered else None
    reverse = [ordered and k % 2 == 1 for k in range(directions)]

    def second(device, backend, dtype=None):
        values, tangents = (tuple(x.to(device, dtype) for x in xs) for xs in (inputs, along))
        there = None if order is None else order.to(device)

        def loss(*args):
            y = directional_scan(*args, order=there, reverse=reverse, backend=backend)
            return y.double().square().mean()

        return func.jvp(func.grad(loss, tuple(range(7))), values, tangents)

    actual, exact = (sum(second(*where), ()) for where in (("cuda", "cuda"), ("cpu", "cpu", torch.float64)))
    if dtype != torch.bfloat16:  # wide types have the table's tolerance, as in all tests of the scan
        for a, e in zip(actual, exact, strict=True):
            assert_close(a, e, tolerance=1e-11 if dtype == torch.float64 else None)
        return
    for a, s, e in zip(actual, sum(second("cuda", "reference"), ()), exact, strict=True):
        assert_as_good_as(a, s, e)


def test_gradients_of_more_samples_than_a_launch_takes():
    """The kernels take 8,192 directions at once. 5,000 samples with two directions need two launches."""
    x, delta, A, B, C, D, bias = (t.detach().cuda() for t in make_inputs(5000, 6, 3, 2, 2, dtype=torch.float32))
    samples = (x[:, None], delta[:, None], B[:, None], C[:, None])

    def gradient(x, delta, B, C):
        return func.grad(lambda A, D, bias: directional_scan(x, delta, A, B, C, D, bias).square().sum(), (0, 1, 2))(
            A, D, bias
        )

    actual = func.vmap(gradient)(*samples)
    for i in (0, 4095, 4096, 4999):
        for a, e in zip(actual, gradient(*(t[i] for t in samples)), strict=True):
            assert_close(a[i], e)


def test_memory_of_a_gradient_penalty_is_that_of_a_slab():
    """All states at once would be 0.6 GB, fourteen times."""
    u, delta = torch.randn(2, 16, 192, 3136, device="cuda")
    A = -torch.rand(192, 16, device="cuda")
    B, C = torch.randn(2, 16, 16, 3136, device="cuda")
    inputs = [x.requires_grad_() for x in (u, delta - 1, A, B, C)]
    gradients = torch.autograd.grad(
        selective_scan(*inputs, delta_softplus=True).square().mean(), inputs, create_graph=True
    )
    penalty = sum(g.square().sum() for g in gradients)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    second = torch.autograd.grad(penalty, inputs)
    assert torch.cuda.max_memory_allocated() - before < 3 * 2**30
    assert all(g.isfinite().all() for g in second)
