"""Tests of the tree scan as an operator: opcheck, torch.compile, autocast, FLOPs, a missing library, errors."""

import subprocess
import sys

import pytest
import torch
from oracles.trees import grid_tree, inputs, scan_and_gradients
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from ssm_core.testing import assert_close
from tree_ssm.ops import Tree, minimum_spanning_tree, tree_scan

BACKENDS = ["reference", "cpu"]


@pytest.mark.parametrize("shape", [(0, 9, 4), (2, 9, 0)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_do(shape, backend):
    tree = Tree(*(x.expand(shape[0], -1) for x in grid_tree(1, 3, 3)))
    u = torch.ones(shape, requires_grad=True)
    h = tree_scan(u, torch.ones(shape), tree, backend=backend)
    h.sum().backward()
    assert h.shape == u.grad.shape == shape


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("dtypes", [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)], ids=str)
def test_opcheck(dtypes, both):
    tree = grid_tree(2, 3, 3)
    u, weight = inputs(tree, 4, *dtypes)
    opcheck(torch.ops.tree_ssm.tree_scan, (u, weight, *tree, both))
    strided = u.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    opcheck(torch.ops.tree_ssm.tree_scan, (strided, weight, *tree, both))
    opcheck(
        torch.ops.tree_ssm.tree_scan_backward,
        (torch.randn_like(u), u.detach(), weight.detach(), *tree, both),
    )


def test_compiles_without_a_break_from_features_to_gradients():
    def model(u, weight, edge_weight):
        tree = minimum_spanning_tree(edge_weight, 4, 5)
        return tree_scan(u * 2, weight.sigmoid(), tree).square() + tree_scan(u, weight.sigmoid(), tree, "up")

    edge_weight = torch.rand(2, 31)
    u, weight = inputs(grid_tree(2, 4, 5), 6, torch.float32)
    expected = model(u, weight, edge_weight)
    gradients = torch.autograd.grad(expected.sum(), (u, weight))
    actual = torch.compile(model, fullgraph=True, backend="aot_eager")(u, weight, edge_weight)
    assert_close(actual, expected)
    for value, name in zip(torch.autograd.grad(actual.sum(), (u, weight)), ("grad_u", "grad_weight"), strict=True):
        assert_close(value, gradients[("grad_u", "grad_weight").index(name)], name)


def test_autocast_leaves_the_precision_of_the_inputs():
    tree = grid_tree(2, 5, 5)
    u, weight = inputs(tree, 4, torch.bfloat16, torch.float32)
    expected = scan_and_gradients(u, weight, tree, "both", "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        h = tree_scan(u, weight, tree)
        wide = tree_scan(u.float(), weight, tree)
    assert torch.equal(h, expected["h"])
    assert wide.dtype == torch.float32


@pytest.mark.parametrize(("direction", "forward", "backward"), [("both", 6, 15), ("up", 2, 5)])
def test_flops(direction, forward, backward):
    tree = grid_tree(2, 4, 5)
    u, weight = inputs(tree, 3)
    with FlopCounterMode(display=False) as counter:
        h = tree_scan(u, weight, tree, direction, "cpu")
    assert counter.get_total_flops() == forward * 2 * 19 * 3
    with FlopCounterMode(display=False) as counter:
        h.sum().backward()
    assert counter.get_total_flops() == backward * 2 * 19 * 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("parent", "order"),
    [
        ([0, 0, 1], [0, 2, 1]),
        ([0, 0, 1], [0, 1, 1]),
        ([0, 0, 1], [0, 1, 3]),
        ([0, 0, 1], [0, -1, 2]),
        ([0, 0, 3], [0, 1, 2]),
        ([0, 0, -1], [0, 1, 2]),
        ([1, 0, 1], [0, 1, 2]),
        ([0, 2, 1], [0, 1, 2]),
        ([0, 0, 2], [0, 1, 2]),
    ],
    ids=str,
)
def test_what_is_not_a_tree_is_refused(parent, order, backend):
    tree = Tree(torch.tensor([[0, 0, 1], parent]), torch.tensor([[0, 1, 2], order]))
    u, weight = inputs(tree, 2)
    with pytest.raises(ValueError, match="tree is not a tree in sample 1: its order must list every vertex once"):
        tree_scan(u, weight, tree, backend=backend)


def test_without_the_library_both_operators_run_with_one_warning_each():
    program = """
import warnings, torch
from ssm_core import _ext
_ext.load = lambda: False
from tree_ssm.ops import minimum_spanning_tree, tree_scan
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        tree = minimum_spanning_tree(torch.tensor([[2.0, 1.0, 1.0, 3.0]]), 2, 2)
        h = tree_scan(torch.ones(1, 4, 1), torch.full((1, 4, 1), 0.5), tree)
print(tree.parent.tolist(), h.flatten().tolist(), *(str(w.message) for w in caught), sep="\\n")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    parent, h, *warned = run.stdout.splitlines()
    assert parent == "[[0, 0, 0, 1]]"
    assert h == "[2.25, 2.25, 1.875, 1.875]"
    assert len(warned) == 2
    assert all("has no compiled kernel for cpu here" in w for w in warned)


GOOD = {"u": torch.ones(2, 9, 3), "weight": torch.ones(2, 9, 3), "tree": grid_tree(2, 3, 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.ones(2, 9)}, r"u must be \[B, L, D\] with L at least 1, got \(2, 9\)"),
        ({"u": torch.ones(2, 0, 3)}, r"u must be \[B, L, D\] with L at least 1, got \(2, 0, 3\)"),
        ({"u": torch.ones(2, 9, 3).int()}, "u must be a real floating-point tensor, got torch.int32"),
        ({"weight": torch.ones(2, 9, 1)}, r"weight must have u's shape \(2, 9, 3\), got \(2, 9, 1\)"),
        ({"weight": torch.ones(2, 9, 3).half()}, "weight must be torch.float32 beside an u of torch.float32"),
        (
            {"u": torch.ones(2, 9, 3).half(), "weight": torch.ones(2, 9, 3).bfloat16()},
            "weight must be torch.float16 or torch.float32 beside an u of torch.float16, got torch.bfloat16",
        ),
        ({"weight": torch.ones(2, 9, 3, device="meta")}, "weight is on meta but u is on cpu"),
        ({"tree": grid_tree(2, 3, 4)}, r"tree.parent must be int64 \[B, L\] = \(2, 9\), got torch.int64 \(2, 12\)"),
        ({"tree": GOOD["tree"]._replace(order=GOOD["tree"].order.int())}, "tree.order must be int64"),
        ({"direction": "down"}, "direction must be 'both' or 'up', got 'down'"),
        ({"backend": "gpu"}, "backend must be one of"),
    ],
)
def test_errors_about_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        tree_scan(**(GOOD | change))
