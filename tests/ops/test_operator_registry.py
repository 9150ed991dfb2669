"""Tests what the operators declare about themselves. Every operator of the library has to be declared."""

import torch

import quadtree_ssm.ops
import tree_ssm.ops
from ssm_core.ops import registry
from ssm_core.ops.registry import Work, decompositions, onnx_translations, work_of_operators

NAMESPACES = ("ssm_core", *(package.__name__.partition(".")[0] for package in (quadtree_ssm.ops, tree_ssm.ops)))


def test_every_operator_of_the_library_is_declared():
    declared = {name for op in registry._COMPILED.values() for name in (op.name, *op.needs)}
    names = {schema.name for schema in torch._C._jit_get_all_schemas()}
    assert declared == {name for name in names if name.partition("::")[0] in NAMESPACES}


def test_what_flops_are_spent_on():
    trees, scans = torch.ops.tree_ssm, torch.ops.ssm_core
    assert work_of_operators() == {
        scans.selective_scan: Work.SCAN,
        scans.selective_scan_backward: Work.SCAN,
        scans.depthwise_conv: Work.OTHER,
        scans.depthwise_conv_backward: Work.OTHER,
        scans.depthwise_conv_sum_backward: Work.OTHER,
        scans.conv_norm_gelu: Work.OTHER,
        scans.conv_norm_gelu_backward: Work.OTHER,
        scans.mlp: Work.OTHER,
        scans.mlp_backward: Work.OTHER,
        scans.norm: Work.OTHER,
        scans.gated_norm: Work.OTHER,
        scans.residual_norm: Work.OTHER,
        trees.tree_scan: Work.SCAN,
        trees.tree_scan_backward: Work.SCAN,
        trees.tree_scan_down: Work.SCAN,
        trees.selective_tree_scan: Work.SCAN,
        trees.selective_tree_scan_backward: Work.SCAN,
        trees.selective_subtree_scan: Work.SCAN,
        trees.selective_subtree_scan_backward: Work.SCAN,
        trees.spanning_tree: Work.TREE,
        trees.minimum_spanning_tree: Work.TREE,
        trees.grid_cosine_distance: Work.TREE,
        trees.state_readout: Work.OTHER,
        trees.gated_state_readout: Work.OTHER,
        torch.ops.quadtree_ssm.token_logits: Work.OTHER,
    }


def test_forms_in_onnx():
    names = {str(op) for op in onnx_translations()}
    assert names == {
        "aten.log_sigmoid.default",
        "aten.roll.default",
        "aten.softplus.default",
        "ssm_core.conv_norm_gelu.default",
        "ssm_core.depthwise_conv.default",
        "ssm_core.mlp.default",
        "ssm_core.norm.default",
        "ssm_core.gated_norm.default",
        "ssm_core.residual_norm.default",
        "ssm_core.selective_scan.default",
        "quadtree_ssm.quadtree_order.default",
        "tree_ssm.gated_state_readout.default",
        "tree_ssm.grid_cosine_distance.default",
        "tree_ssm.minimum_spanning_tree.default",
        "tree_ssm.state_readout.default",
        "tree_ssm.tree_scan.default",
    }


def test_decompositions_compute_the_same_without_python():
    tree_ops = torch.ops.tree_ssm
    table = decompositions()
    assert list(table) == [tree_ops.minimum_spanning_tree.default]
    arguments = (torch.rand(2, 17), None, 3, 4, torch.tensor([0, 7]))
    replaced = table[tree_ops.minimum_spanning_tree.default](*arguments)
    for actual, expected in zip(replaced, tree_ops.minimum_spanning_tree(*arguments), strict=True):
        assert torch.equal(actual, expected)
