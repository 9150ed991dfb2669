"""Tests of the distances along the grid's edges: measures computed by hand, the CPU kernel, half types, bad input."""

import pytest
import torch
from oracles.grid import DISTANCES, grid
from torch.library import opcheck

from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import grid_distances

SIZES = [(4, 3), (1, 5), (5, 1), (1, 1), (7, 9)]


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_every_edge_by_hand(distance, size, backend):
    x = torch.randn(2, *size, 37, dtype=torch.float64)
    tokens = x.flatten(1, 2)
    expected = [[float(DISTANCES[distance](t[a], t[b])) for a, b in grid(*size)] for t in tokens]
    assert_close(grid_distances(x, distance, backend), torch.tensor(expected, dtype=torch.float64).view(2, -1))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_distances_of_zero_vectors_are_finite(backend):
    assert torch.equal(grid_distances(torch.zeros(1, 3, 3, 4), backend=backend), torch.ones(1, 12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_good_as_the_reference(dtype):
    x = torch.randn(3, 6, 5, 70).to(dtype)
    exact = grid_distances(x.double(), backend="reference")
    actual = grid_distances(x, backend="cpu")
    assert actual.dtype == torch.float32
    assert_as_good_as(actual, grid_distances(x, backend="reference"), exact)


def test_opcheck_compile_strides_and_no_gradient():
    x = torch.randn(2, 5, 4, 6)
    opcheck(torch.ops.tree_ssm.grid_cosine_distance.default, (x,))
    strided = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    compiled = torch.compile(grid_distances, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        result = compiled(strided.requires_grad_())
    assert torch.equal(result, grid_distances(x))
    assert not result.requires_grad


@pytest.mark.parametrize(
    ("x", "distance", "message"),
    [
        (torch.zeros(2, 3, 4), "cosine", r"x must be real \[B, H, W, D\]"),
        (torch.zeros(1, 2, 2, 3, dtype=torch.int32), "cosine", "x must be real"),
        (torch.zeros(1, 2, 2, 3), "angle", "distance must be one of cosine, euclidean, manhattan, got 'angle'"),
    ],
)
def test_bad_input_is_named(x, distance, message):
    with pytest.raises(ValueError, match=message):
        grid_distances(x, distance)
