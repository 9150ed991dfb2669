"""The subtree scan and its gradients composed of the tree scan, for forward mode and derivatives of higher orders.

The kernels keep no state but those of a walk. Here the states of all tokens are in memory, ``[B, L, D, N]``.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype

from .reference import outputs_of, source_and_weight


def subtree_scan_composite(
    wanted: Sequence[bool],
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    A: Tensor,  # [D, N]
    B: Tensor,  # [B, L, N]
    C: Tensor,  # [B, L, N]
    delta_bias: Tensor,  # [D]
    parent: Tensor,  # [B, L]
    order: Tensor,  # [B, L]
    next_step: bool,
    schedule: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute ``tree_ssm::selective_subtree_scan``."""
    source, weight = (s.flatten(2) for s in source_and_weight(x, delta, A, B, delta_bias, next_step))
    h = torch.ops.tree_ssm.tree_scan(source, weight, parent, order, False, schedule)
    return outputs_of(h.unflatten(2, A.shape), C, order, x.dtype)


def subtree_scan_backward_composite(
    wanted: Sequence[bool],
    grad_y: Tensor,  # [B, L, D]
    grad_root_state: Tensor | None,  # [B, D, N]
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    A: Tensor,  # [D, N]
    B: Tensor,  # [B, L, N]
    C: Tensor,  # [B, L, N]
    delta_bias: Tensor,  # [D]
    parent: Tensor,  # [B, L]
    order: Tensor,  # [B, L]
    next_step: bool,
    schedule: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Compute ``tree_ssm::selective_subtree_scan_backward`` by the formulas of the README."""
    dtype = accumulate_dtype(x.dtype)
    g, features, b, c = grad_y.to(dtype), x.to(dtype), B.to(dtype), C.to(dtype)
    raw_step = delta.to(dtype) + delta_bias
    step = F.softplus(raw_step)
    source, weight = (s.flatten(2) for s in source_and_weight(x, delta, A, B, delta_bias, next_step))

    grad_h = g.unsqueeze(-1) * c.unsqueeze(2)
    if grad_root_state is not None:
        is_root = order[:, :1] == torch.arange(order.shape[1], device=order.device)
        grad_h = grad_h + is_root[..., None, None] * grad_root_state.unsqueeze(1)
    tree = (parent, order, False, schedule)
    h = torch.ops.tree_ssm.tree_scan(source, weight, *tree)
    grad_source, grad_weight = torch.ops.tree_ssm.tree_scan_backward(grad_h.flatten(2), source, weight, *tree)
    by_source = grad_source.unflatten(2, A.shape)  # G
    by_exponent = (weight * grad_weight).unflatten(2, A.shape)  # k

    of_edge = step.roll(-1, dims=1) if next_step else step
    grad_A = torch.einsum("bld,bldn->dn", of_edge, by_exponent)
    by_edge = torch.einsum("dn,bldn->bld", A, by_exponent)
    by_input = torch.einsum("bln,bldn->bld", b, by_source)
    grad_step = features * by_input + (by_edge.roll(1, dims=1) if next_step else by_edge)
    grad_delta = torch.sigmoid(raw_step) * grad_step
    return (
        (step * by_input).to(x.dtype),
        grad_delta.to(delta.dtype),
        grad_A,
        torch.einsum("bld,bldn->bln", step * features, by_source).to(B.dtype),
        torch.einsum("bld,bldn->bln", g, h.unflatten(2, A.shape)).to(C.dtype),
        grad_delta.sum((0, 1)),
    )
