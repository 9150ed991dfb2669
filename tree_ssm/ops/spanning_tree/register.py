"""Declares the spanning tree operators and registers their fake and error rules; discrete results have no gradient.

``spanning_tree`` is the kernel: it is pure, and the faults of each sample are one of its outputs.
``minimum_spanning_tree`` is the operator that the public function calls. On the CPU it is implemented here and raises
the faults as errors, since looking at a value there waits for nothing.

The schemas are in ``csrc/spanning_tree/schema.cpp``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import require_shapes
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Table, Work, register
from ssm_core.ops.vmap import BatchingRule, fold, register_rule, unfold

from .faults import Fault, raise_fault


def _fake(edge_weight: Tensor, edges: Tensor | None, height: int, width: int, root: Tensor) -> tuple[Tensor, Tensor]:
    require_shapes("minimum_spanning_tree", edge_weight=(edge_weight, "BE"), root=(root, "B"))
    if edges is not None:
        ends = "EV" if edges.dim() == 2 else "BEV"
        require_shapes("minimum_spanning_tree", edge_weight=(edge_weight, "BE"), edges=(edges, ends))
    parent = root.new_empty(edge_weight.shape[0], height * width)
    return parent, torch.empty_like(parent)


def _fake_kernel(
    edge_weight: Tensor, edges: Tensor | None, height: int, width: int, root: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return *_fake(edge_weight, edges, height, width, root), root.new_empty(edge_weight.shape[0], 2)


def _checked(edge_weight: Tensor, edges: Tensor | None, height: int, width: int, root: Tensor) -> tuple[Tensor, Tensor]:
    parent, order, fault = torch.ops.tree_ssm.spanning_tree(edge_weight, edges, height, width, root)
    if fault.any():
        sample = int(fault[:, 0].nonzero()[0])
        kind, where = fault[sample].tolist()
        raise_fault(Fault(kind), sample, where)
    return parent, order


def _unchecked(
    edge_weight: Tensor, edges: Tensor | None, height: int, width: int, root: Tensor
) -> tuple[Tensor, Tensor]:
    """The kernel in place of ``minimum_spanning_tree``, for graphs without Python; it raises nothing about values."""
    parent, order, _ = torch.ops.tree_ssm.spanning_tree(edge_weight, edges, height, width, root)
    return parent, order


def _rule(op: Callable[..., tuple[Tensor, ...]]) -> BatchingRule:
    def rule(
        info: Any,
        in_dims: tuple[int | None, ...],
        edge_weight: Tensor,  # [B, E]
        edges: Tensor | None,  # [E, 2] or [B, E, 2]
        height: int,
        width: int,
        root: Tensor,  # [B]
    ) -> tuple[Any, Any]:
        size, of_edges = info.batch_size, in_dims[1]
        if edges is not None and (of_edges is not None or edges.dim() == 3):
            if of_edges is not None and edges.dim() == 3:  # one list a mapped sample, for all of its batch
                batch = root.shape[0 if in_dims[4] is None else 1 - in_dims[4]]
                edges, of_edges = edges.movedim(of_edges, 0).unsqueeze(1).expand(-1, batch, -1, -1), 0
            edges = fold(edges, of_edges, size, 0)
        edge_weight, root = fold(edge_weight, in_dims[0], size, 0), fold(root, in_dims[4], size, 0)
        results = op(edge_weight, edges, height, width, root)
        return tuple(unfold(x, size, 0)[0] for x in results), (0,) * len(results)

    return rule


def _flops(weight_shape: Shape, edges_shape: Any, height: int, width: int, *_: Any, out_shape: Any = None) -> int:
    """A comparison an edge in each of Borůvka's rounds, of which there are at most ⌈log₂ L⌉.

    A comparison counts as much as a multiply-add.
    """
    batch, edges = weight_shape
    return 2 * batch * edges * (height * width - 1).bit_length()


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_KERNEL, _NAME = "tree_ssm::spanning_tree", "tree_ssm::minimum_spanning_tree"
_OPERATOR = Operator(
    _NAME,
    needs=(_KERNEL,),
    work=Work.TREE,
    flops={_KERNEL: _flops, _NAME: _flops},
    onnx=_onnx,
    without_python=_unchecked,
    examples=_examples,
)

if register(_OPERATOR):
    torch.library.register_fake(_KERNEL, _fake_kernel)
    torch.library.register_fake(_NAME, _fake)
    torch.library.impl(_NAME, "cpu", _checked)
    register_rule(_KERNEL, _rule(torch.ops.tree_ssm.spanning_tree))
    register_rule(_NAME, _rule(torch.ops.tree_ssm.minimum_spanning_tree))
