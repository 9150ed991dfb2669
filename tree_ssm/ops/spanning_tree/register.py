"""Fake, error and FLOP rules of the spanning tree operators; they are discrete, so there is no gradient.

``spanning_tree`` is the kernel: pure, and with the faults of each sample as an output. ``minimum_spanning_tree`` is the
operator in graphs: on the CPU, where looking at a value costs nothing, it raises the faults as errors.
"""

import torch
from torch.utils.flop_counter import register_flop_formula

from ssm_core import _ext

from .faults import Fault, raise_fault


def _fake(edge_weight, edges, height, width, root):
    parent = root.new_empty(edge_weight.shape[0], height * width)
    return parent, torch.empty_like(parent)


def _fake_kernel(edge_weight, edges, height, width, root):
    return *_fake(edge_weight, edges, height, width, root), root.new_empty(edge_weight.shape[0], 2)


def _checked(edge_weight, edges, height, width, root):
    parent, order, fault = torch.ops.tree_ssm.spanning_tree(edge_weight, edges, height, width, root)
    if fault.any():
        sample = int(fault[:, 0].nonzero()[0])
        kind, where = fault[sample].tolist()
        raise_fault(Fault(kind), sample, where)
    return parent, order


def _flops(weight_shape, edges_shape, height, width, *_, out_shape=None, **__) -> int:
    """A comparison an edge in each of Borůvka's rounds, of which there are at most ⌈log₂ L⌉.

    A comparison counts as a multiply-add does, which ``FlopCounterMode`` counts twice.
    """
    batch, edges = weight_shape
    return 2 * batch * edges * (height * width - 1).bit_length()


if _ext.load():
    torch.library.register_fake("tree_ssm::spanning_tree", _fake_kernel)
    torch.library.register_fake("tree_ssm::minimum_spanning_tree", _fake)
    torch.library.impl("tree_ssm::minimum_spanning_tree", "cpu", _checked)
    register_flop_formula([torch.ops.tree_ssm.spanning_tree, torch.ops.tree_ssm.minimum_spanning_tree])(_flops)
