"""Tests of the scans' parameters: initialisation, projections, precision."""

import pytest
import torch
import torch.nn.functional as F

from ssm_core.layers import SelectiveSSM
from ssm_core.testing import assert_close


@pytest.fixture
def ssm():
    torch.manual_seed(0)
    return SelectiveSSM(inner_dim=64, d_state=3, dt_rank=4, directions=2)


def test_initialisation_is_mambas(ssm):
    assert_close(ssm.A_log.exp(), torch.tensor([1.0, 2.0, 3.0]).expand(2, 64, 3))
    assert_close(ssm.decay(), -torch.tensor([1.0, 2.0, 3.0]).expand(2, 64, 3))
    assert torch.equal(ssm.D, torch.ones(2, 64))
    steps = F.softplus(ssm.dt_bias)
    assert 1e-3 * 0.999 < steps.min() < 2e-3
    assert 0.05 < steps.max() < 0.1 * 1.001
    # The steps are log-uniform, so the mean of their logarithms is that of the range's ends.
    assert abs(steps.log10().mean() + 2) < 0.15
    assert 0.45 < ssm.dt_weight.abs().max() <= 4**-0.5
    assert 0.12 < ssm.x_proj.weight.abs().max() <= 64**-0.5


def test_projections_equal_a_matrix_product_a_direction(ssm):
    x = torch.randn(2, 5, 64)
    weights = ssm.x_proj.weight.unflatten(0, (2, 4 + 3 + 3))
    for k in range(2):
        step, B, C = (x @ weights[k].T).split((4, 3, 3), dim=-1)
        projected = ssm.project(x)
        assert_close(projected.delta[:, k], step @ ssm.dt_weight[k].T, "delta")
        assert_close(projected.B[:, k], B, "B")
        assert_close(projected.C[:, k], C, "C")
        assert projected.delta.stride(-1) == 1


def _project_by_the_formulas(ssm, x):
    """Steps, B and C of every direction, by a matrix product each."""
    sizes = (ssm.dt_rank, ssm.d_state, ssm.d_state)
    weights = ssm.x_proj.weight.unflatten(0, (ssm.directions, sum(sizes)))
    factors = [(x @ weight.T).split(sizes, dim=-1) for weight in weights]
    steps = [step @ weight.T for (step, _, _), weight in zip(factors, ssm.dt_weight, strict=True)]
    return [torch.stack(parts, dim=1) for parts in (steps, *zip(*(rest for _, *rest in factors), strict=True))]


@pytest.mark.parametrize(("states", "rank", "directions"), [(1, 6, 2), (3, 4, 2), (1, 5, 1), (1, 8, 4), (4, 8, 1)])
def test_projections_have_every_gradient(states, rank, directions):
    """Ranks and widths that are multiples of eight, and others, whose weights are padded."""
    ssm = SelectiveSSM(24, states, rank, directions).double()
    x = torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    leaves = (x, ssm.x_proj.weight, ssm.dt_weight)
    expected = _project_by_the_formulas(ssm, x)
    upstream = [torch.randn_like(y) for y in expected]
    gradients = torch.autograd.grad(expected, leaves, upstream)
    found = ssm.project(x)
    for name, actual, wanted in zip(found._fields, found, expected, strict=True):
        assert_close(actual, wanted, name)
        assert actual.shape == wanted.shape
    for actual, gradient in zip(torch.autograd.grad(found, leaves, upstream), gradients, strict=True):
        assert_close(actual, gradient)


@pytest.mark.parametrize(("rank", "directions"), [(6, 2), (5, 1), (8, 4)])
def test_projections_have_second_derivatives_tangents_and_a_vmap_rule(rank, directions):
    ssm = SelectiveSSM(24, 1, rank, directions).double()
    x = torch.randn(3, 2, 5, 24, dtype=torch.float64, requires_grad=True)
    ours, formulas = (lambda z: tuple(ssm.project(z))), (lambda z: tuple(_project_by_the_formulas(ssm, z)))
    torch.autograd.gradgradcheck(lambda z: ssm.project(z).delta, (x[0, :, :2],))
    for actual, wanted in zip(torch.func.vmap(ours)(x), torch.func.vmap(formulas)(x), strict=True):
        assert_close(actual, wanted)
    _, tangents = torch.func.jvp(ours, (x[0],), (x[1],))
    _, expected = torch.func.jvp(formulas, (x[0],), (x[1],))
    for actual, wanted in zip(tangents, expected, strict=True):
        assert_close(actual, wanted)


def test_products_have_aligned_sides(monkeypatch):
    """Tensor cores read numbers by eight."""
    linear, products = F.linear, []
    monkeypatch.setattr(torch, "bmm", lambda a, b: products.append((a, b)) or a @ b)
    monkeypatch.setattr(F, "linear", lambda x, weight: products.append((weight,)) or linear(x, weight))
    SelectiveSSM(24, 1, 12, 2).project(torch.randn(3, 5, 24))
    (x_weight,), (step, weight) = products
    assert x_weight.shape == (32, 24)
    assert step.shape == (3 * 2, 5, 16)
    assert weight.shape == (3 * 2, 16, 24)


@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)]
)
def test_decay_is_never_computed_in_half_precision(ssm, dtype, kept):
    assert ssm.to(dtype).decay().dtype == kept


def test_parameters_are_float32_whatever_the_default_dtype():
    torch.set_default_dtype(torch.bfloat16)
    try:
        ssm = SelectiveSSM(8, 1, 1, 1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert ssm.A_log.dtype == ssm.D.dtype == ssm.dt_bias.dtype == torch.float32
    assert ssm.x_proj.weight.dtype == torch.bfloat16
