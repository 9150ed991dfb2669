"""Tests of the subtree scan on the CPU: its definition, every gradient, dtypes, compilation, errors."""

from functools import partial

import pytest
import torch
from oracles.derivative_cases import subtree_definition
from oracles.gradients import with_gradients
from oracles.sequences import NAMES, chain, sequence_tree
from oracles.sequences import scan_arguments as arguments
from oracles.trees import TREES
from torch.autograd import gradcheck
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from ssm_core.ops import selective_scan
from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import Tree, subtree_scan

BACKENDS = ["reference", "cpu"]
RULES = pytest.mark.parametrize("next_step", [False, True], ids=["own", "next"])


@RULES
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TREES)
def test_equals_dense_sum(name, backend, next_step):
    values = arguments(TREES[name], 3, 2)
    actual = subtree_scan(*values, TREES[name], next_step, backend)
    for a, e in zip(actual, subtree_definition(values, TREES[name], next_step), strict=True):
        assert_close(a, e)


@RULES
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend, next_step):
    tree = TREES["random"]
    scan = partial(subtree_scan, tree=tree, next_step=next_step, backend=backend)
    assert gradcheck(scan, arguments(tree, 2, 2), fast_mode=True)


@RULES
def test_kernel_equals_reference_with_every_gradient(next_step):
    tree = sequence_tree(3, 65)
    for channels, states in ((1, 1), (16, 4), (37, 16)):
        values = arguments(tree, channels, states)
        gradients = [torch.randn(3, 65, channels).double(), torch.randn(3, channels, states).double()]
        for kept in (gradients, [gradients[0], None], [None, gradients[1]]):
            scans = [partial(subtree_scan, tree=tree, next_step=next_step, backend=b) for b in BACKENDS]
            expected, actual = (with_gradients(scan, values, kept) for scan in scans)
            for name, a, e in zip(NAMES, actual, expected, strict=True):
                assert_close(a, e, name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_chain_it_is_mambas_scan(backend):
    tree = chain(2, 33)
    x, delta, A, B, C, bias = arguments(tree, 5, 4)
    y, state = subtree_scan(x, delta, A, B, C, bias, tree, True, backend)
    rows = [t.transpose(1, 2) for t in (x, delta)]
    expected, last = selective_scan(
        *rows, A, B.mT, C.mT, delta_bias=bias, delta_softplus=True, return_last_state=True, backend="reference"
    )
    assert_close(y, expected.transpose(1, 2))
    assert_close(state, last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_compute_in_float32(dtype):
    tree = sequence_tree(2, 81)
    values = arguments(tree, 5, 16, dtype)
    exact = subtree_scan(*(v.double() for v in values), tree, True)
    y, state = subtree_scan(*values, tree, True)
    assert y.dtype == dtype
    assert state.dtype == torch.float32
    assert_as_good_as(y, exact[0].to(dtype), exact[0])
    assert_close(state, exact[1], tolerance=2e-6)


def test_strides_compilation_and_operator_rules():
    tree = sequence_tree(2, 20)
    values = arguments(tree, 6, 4, torch.float32)
    expected = subtree_scan(*values, tree, True)
    x, delta, A, B, C, bias = values
    wide = torch.cat([B, x, C], dim=-1)
    strided = (wide[..., 4:10], delta.mT.contiguous().mT, A, wide[..., :4], wide[..., 10:], bias)
    for a, e in zip(subtree_scan(*strided, tree, True), expected, strict=True):
        assert torch.equal(a, e)
    opcheck(torch.ops.tree_ssm.selective_subtree_scan, (*values, *tree, True))
    scan = partial(subtree_scan, tree=tree, next_step=True)
    gradients = [torch.randn_like(e) for e in expected]
    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    for a, e in zip(*(with_gradients(s, values, gradients) for s in (compiled, scan)), strict=True):
        assert torch.equal(a, e)
    with torch.autocast("cpu", torch.bfloat16):
        assert scan(*values)[0].dtype == torch.float32
    with FlopCounterMode(display=False) as counter:
        scan(*values)[0].sum().backward()
    assert counter.get_total_flops() == (4 + 14) * 2 * 20 * 6 * 4


def test_the_same_bits_for_any_number_of_threads():
    tree = sequence_tree(2, 300)
    values = arguments(tree, 50, 16, torch.float32)
    gradients = [torch.randn(2, 300, 50), None]
    scan = partial(subtree_scan, tree=tree, next_step=True)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(with_gradients(scan, values, gradients))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


def test_errors_name_the_argument():
    tree = TREES["random"]
    names = ("x", "delta", "A", "B", "C", "delta_bias")
    values = dict(zip(names, arguments(tree, 4, 3), strict=True))
    for name in names[1:]:
        with pytest.raises(ValueError, match=f"subtree_scan: {name} must be torch.float64"):
            subtree_scan(**{**values, name: values[name].float()}, tree=tree)
        with pytest.raises(ValueError, match=f"subtree_scan: {name} must be"):
            subtree_scan(**{**values, name: values[name][:1]}, tree=tree)
    with pytest.raises(ValueError, match=r"x must be \[B, L, D\]"):
        subtree_scan(**{**values, "x": values["x"][0]}, tree=tree)
    with pytest.raises(ValueError, match="x must be a real floating-point tensor"):
        subtree_scan(**{**values, "x": values["x"].long()}, tree=tree)
    with pytest.raises(ValueError, match=r"tree\.order must be"):
        subtree_scan(**values, tree=Tree(tree.parent, tree.order.int()))
    with pytest.raises(ValueError, match="subtree_scan: tree is not a tree in sample 0"):
        subtree_scan(**values, tree=Tree(tree.parent, tree.order.flip(1)), backend="cpu")
    with pytest.raises(ValueError, match="backend 'cuda' was asked for"):
        subtree_scan(**values, tree=tree, backend="cuda")
