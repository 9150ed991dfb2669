"""Tests of the scans' parameters: initialisation, projections, precision."""

import pytest
import torch
import torch.nn.functional as F

from quadtree_ssm import QuadMamba
from ssm_core.layers import SelectiveSSM, pad_projections
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


@pytest.mark.parametrize("multiple", [2, 8, 16])
@pytest.mark.parametrize(("states", "rank", "directions"), [(1, 6, 2), (3, 4, 2), (1, 5, 1), (1, 8, 4), (2, 3, 2)])
def test_padded_projections_are_the_same_with_every_gradient(states, rank, directions, multiple):
    ssm = SelectiveSSM(24, states, rank, directions).double()
    x = torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    leaves = (x, ssm.x_proj.weight, ssm.dt_weight)
    expected = ssm.project(x)
    upstream = [torch.randn_like(y) for y in expected]
    gradients = torch.autograd.grad(expected, leaves, upstream)
    found = pad_projections(ssm, multiple).project(x)
    for name in expected._fields:
        assert_close(getattr(found, name), getattr(expected, name), name)
        assert getattr(found, name).shape == getattr(expected, name).shape
    assert found.delta.stride(-1) == 1
    for actual, gradient in zip(torch.autograd.grad(found, leaves, upstream), gradients, strict=True):
        assert_close(actual, gradient)


def test_padded_products_have_aligned_slices(monkeypatch):
    """Every slice of the product, and both sides of the steps' product, are multiples."""
    products = []
    monkeypatch.setattr(torch, "bmm", lambda a, b: products.append((a, b)) or a @ b)
    pad_projections(SelectiveSSM(24, 1, 6, 2)).project(torch.randn(2, 5, 24))
    ((step, weight),) = products
    assert step.shape == (2, 10, 8)
    assert weight.shape == (2, 8, 24)
    assert step.stride(1) == 24  # two directions of 8, four numbers of B and C, and four of zeros
    assert step.stride(0) == 8


def test_whole_models_compute_the_same_with_padded_projections():
    model = QuadMamba((1, 1, 1), (16, 24, 40), num_classes=3).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = model(images)
        state = list(model.state_dict())
        assert_close(pad_projections(model)(images), expected, tolerance=1e-9)
    assert list(model.state_dict()) == state
    with pytest.raises(ValueError, match="multiple must be 1 at least, got 0"):
        pad_projections(model, 0)


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
