"""Fake and error rules of the spanning tree operators; they are discrete, so there is no gradient.

``spanning_tree`` is the kernel: pure, and with the faults of each sample as an output. ``minimum_spanning_tree`` is the
operator in graphs: on the CPU, where looking at a value costs nothing, it raises the faults as errors.
"""

import torch

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


if _ext.load():
    torch.library.register_fake("tree_ssm::spanning_tree", _fake_kernel)
    torch.library.register_fake("tree_ssm::minimum_spanning_tree", _fake)
    torch.library.impl("tree_ssm::minimum_spanning_tree", "cpu", _checked)
