"""Tests of the selective tree scan on the CPU: its definition, every gradient, dtypes, errors."""

import pytest
import torch
from oracles.trees import TREES, brute_force, grid_tree
from oracles.trees import selective_arguments as arguments
from torch.autograd import gradcheck

from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import Tree, selective_tree_scan

BACKENDS = ["reference", "cpu"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TREES)
def test_equals_dense_sum(name, backend):
    tree = TREES[name]
    x, delta, A, B, bias = values = arguments(tree, 3)
    step = torch.log1p(torch.exp(delta + bias))
    expected = brute_force(step * B.unsqueeze(-1) * x, torch.exp(step * A), tree, "both")
    assert_close(selective_tree_scan(*values, tree, backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend):
    tree = grid_tree(2, 3, 2)
    assert gradcheck(lambda *values: selective_tree_scan(*values, tree, backend=backend), arguments(tree, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_compute_in_float32(dtype):
    tree = grid_tree(2, 9, 9)
    values = arguments(tree, 5, dtype)
    exact = selective_tree_scan(*(v.double() for v in values), tree)
    h = selective_tree_scan(*values, tree)
    assert h.dtype == dtype
    assert_as_good_as(h, exact.to(dtype), exact)


def test_errors_name_the_argument():
    tree = grid_tree(2, 3, 3)
    names = ("x", "delta", "A", "B", "delta_bias")
    values = dict(zip(names, arguments(tree, 4), strict=True))
    for name in names[1:]:
        with pytest.raises(ValueError, match=f"selective_tree_scan: {name} must be torch.float64"):
            selective_tree_scan(**{**values, name: values[name].float()}, tree=tree)
        with pytest.raises(ValueError, match=f"selective_tree_scan: {name} must be"):
            selective_tree_scan(**{**values, name: values[name][:1]}, tree=tree)
    with pytest.raises(ValueError, match=r"x must be \[B, L, D\]"):
        selective_tree_scan(**{**values, "x": values["x"][0]}, tree=tree)
    with pytest.raises(ValueError, match="x must be a real floating-point tensor"):
        selective_tree_scan(**{**values, "x": values["x"].long()}, tree=tree)
    with pytest.raises(ValueError, match=r"tree\.order must be"):
        selective_tree_scan(**values, tree=Tree(tree.parent, tree.order.int()))
    with pytest.raises(ValueError, match="backend 'cuda' was asked for"):
        selective_tree_scan(**values, tree=tree, backend="cuda")
