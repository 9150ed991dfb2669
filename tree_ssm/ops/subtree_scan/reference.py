"""The selective scan from a tree's leaves to its root in plain PyTorch, which the kernels are tested against."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype
from tree_ssm.ops.spanning_tree import Tree
from tree_ssm.ops.tree_scan import tree_scan_reference


def subtree_scan_reference(
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    A: Tensor,  # [D, N]
    B: Tensor,  # [B, L, N]
    C: Tensor,  # [B, L, N]
    delta_bias: Tensor,  # [D]
    tree: Tree,
    next_step: bool,
) -> tuple[Tensor, Tensor]:
    """Compute y ``[B, L, D]`` and the root's state ``[B, D, N]`` by the tree scan over D·N channels."""
    source, weight = source_and_weight(x, delta, A, B, delta_bias, next_step)
    h = tree_scan_reference(source.flatten(2), weight.flatten(2), tree.parent, tree.order, both=False)
    return outputs_of(h.unflatten(2, A.shape), C, tree.order, x.dtype)


def source_and_weight(
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    A: Tensor,  # [D, N]
    B: Tensor,  # [B, L, N]
    delta_bias: Tensor,  # [D]
    next_step: bool,
) -> tuple[Tensor, Tensor]:
    """The source of every token and the weight of the edge above it, both ``[B, L, D, N]`` in float32 or float64."""
    dtype = accumulate_dtype(x.dtype)
    step = F.softplus(delta.to(dtype) + delta_bias)
    of_edge = step.roll(-1, dims=1) if next_step else step
    source = (step * x.to(dtype)).unsqueeze(-1) * B.to(dtype).unsqueeze(2)
    return source, torch.exp(of_edge.unsqueeze(-1) * A)


def outputs_of(
    h: Tensor,  # [B, L, D, N]
    C: Tensor,  # [B, L, N]
    order: Tensor,  # [B, L]
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """y ``[B, L, D]`` in a dtype and the root's state ``[B, D, N]``, from the states of all tokens."""
    root = order[:, :1, None, None].expand(-1, -1, *h.shape[2:])
    return torch.einsum("bldn,bln->bld", h, C.to(h.dtype)).to(dtype), h.gather(1, root).squeeze(1)
