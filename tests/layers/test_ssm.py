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
