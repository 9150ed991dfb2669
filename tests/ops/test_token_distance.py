"""Tests of the distances between tokens of a sequence: the cosine of the explicit inputs, padding, errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from oracles.sequences import distance_arguments as arguments

from ssm_core.testing import assert_close
from tree_ssm.ops import minimum_spanning_tree, token_distances, token_edges


def test_edges_are_listed_by_distance():
    assert token_edges(5, 3).tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [0, 2], [1, 3], [2, 4], [0, 3], [1, 4]]
    assert token_edges(2, 3).tolist() == [[0, 1]]
    assert token_edges(1, 3).shape == (0, 2)


@pytest.mark.parametrize(("length", "reach"), [(1, 3), (2, 3), (9, 1), (9, 3), (9, 12)])
def test_is_the_cosine_over_all_channels_and_states(length, reach):
    x, delta, bias, B, start, end = values = arguments(3, length, 5, 4)
    u = ((F.softplus(delta + bias) * x).unsqueeze(-1) * B.unsqueeze(2)).flatten(2)
    weights = token_distances(*values, reach)
    for row in range(3):
        for (a, b), weight in zip(token_edges(length, reach).tolist(), weights[row].tolist(), strict=True):
            expected = 0.0 if b - a == 1 else 4.0
            if a >= start[row] and b < end[row]:
                expected = math.exp(-float(F.cosine_similarity(u[row, a], u[row, b], dim=0)))
            assert weight == pytest.approx(expected, abs=1e-12)


def test_outside_the_prompt_the_tree_is_a_chain():
    x, delta, bias, B, _, _ = arguments(1, 12, 5, 4)
    start, end = torch.tensor([3]), torch.tensor([8])
    weights = token_distances(x, delta, bias, B, start, end)
    parent = minimum_spanning_tree(weights, edges=token_edges(12, 3), num_vertices=12, root=11).parent[0].tolist()
    assert parent[:3] == [1, 2, 3]
    assert parent[7:] == [8, 9, 10, 11, 11]
    assert all(3 <= p <= 7 for p in parent[3:7])


def test_inputs_of_zero_are_as_far_as_can_be_from_anything():
    x, delta, bias, B, _, _ = arguments(1, 4, 5, 4)
    x[:, 1] = 0
    weights = token_distances(x, delta, bias, B, torch.tensor([0]), torch.tensor([4]), 1)
    assert_close(weights[0, :2], torch.ones(2).double())


def test_half_types_and_no_gradient():
    x, *rest = arguments(2, 9, 5, 4, torch.bfloat16)
    weights = token_distances(x.requires_grad_(), *rest)
    assert weights.dtype == torch.float32
    assert not weights.requires_grad
    exact = token_distances(x.double(), *(t.double() if t.is_floating_point() else t for t in rest))
    assert_close(weights, exact, tolerance=1e-6)


def test_errors_name_the_argument():
    values = dict(zip(("x", "delta", "delta_bias", "B", "start", "end"), arguments(2, 6, 4, 3), strict=True))
    for name in ("delta", "delta_bias", "B", "start", "end"):
        with pytest.raises(ValueError, match=f"token_distances: {name} must be"):
            token_distances(**{**values, name: values[name].float()})
    with pytest.raises(ValueError, match=r"x must be real \[B, L, D\]"):
        token_distances(**{**values, "x": values["x"].long()})
    with pytest.raises(ValueError, match="reach at least 1, got"):
        token_distances(**values, reach=0)
    with pytest.raises(ValueError, match="backend 'cuda' was asked for"):
        token_distances(**values, backend="cuda")
