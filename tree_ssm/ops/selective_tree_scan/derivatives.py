"""The selective tree scan and its gradients composed of the tree scan, for forward mode and higher derivatives."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype

from .reference import source_and_weight


def selective_tree_scan_composite(
    wanted: Sequence[bool],
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    A: Tensor,  # [D]
    B: Tensor,  # [B, L]
    delta_bias: Tensor,  # [D]
    schedule: Tensor | None,
    parent: Tensor | None = None,  # [B, L]
    order: Tensor | None = None,  # [B, L]
) -> tuple[Tensor]:
    """Compute ``tree_ssm::selective_tree_scan``."""
    source, weight = source_and_weight(x, delta, A, B, delta_bias)
    tree = _tree(parent, order)
    return (torch.ops.tree_ssm.tree_scan(source, weight, *tree, True, schedule).to(x.dtype),)


def selective_tree_scan_backward_composite(
    wanted: Sequence[bool],
    grad_h: Tensor,  # [B, L, D]
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    A: Tensor,  # [D]
    B: Tensor,  # [B, L]
    delta_bias: Tensor,  # [D]
    schedule: Tensor | None,
    parent: Tensor | None = None,  # [B, L]
    order: Tensor | None = None,  # [B, L]
) -> tuple[Tensor, ...]:
    """Compute ``tree_ssm::selective_tree_scan_backward`` by the formulas of the README."""
    dtype = accumulate_dtype(x.dtype)
    source, weight = source_and_weight(x, delta, A, B, delta_bias)
    grad_source, grad_weight = torch.ops.tree_ssm.tree_scan_backward(
        grad_h.to(dtype), source, weight, *_tree(parent, order), True, schedule
    )
    raw_step = delta.to(dtype) + delta_bias
    step, features, b = torch.nn.functional.softplus(raw_step), x.to(dtype), B.to(dtype).unsqueeze(-1)
    by_exponent = weight * grad_weight
    grad_delta = torch.sigmoid(raw_step) * (b * features * grad_source + A * by_exponent)
    return (
        (step * b * grad_source).to(x.dtype),
        grad_delta.to(delta.dtype),
        (step * by_exponent).sum((0, 1)),
        (step * features * grad_source).sum(-1).to(B.dtype),
        grad_delta.sum((0, 1)),
    )


def _tree(parent: Tensor | None, order: Tensor | None) -> tuple[Tensor, Tensor]:
    if parent is None or order is None:
        raise ValueError(
            "selective_tree_scan: forward mode, second derivatives and vmap need parent and order beside the schedule; "
            "call tree_ssm.ops.selective_tree_scan, which gives them"
        )
    return parent, order
