"""The selective scan with N states a channel from the leaves of a tree to its root; the README has the maths."""

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.calling import call
from ssm_core.ops.checks import FLOATS, accumulate_dtype, require_same_device, shape_of
from tree_ssm.ops.spanning_tree import Tree

from . import register as _register  # noqa: F401  registers the operator's rules
from .reference import subtree_scan_reference

_STATES_AT_ONCE = 16  # kMostStates in csrc/subtree_scan/cuda/tuning.h


def subtree_scan(
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    A: Tensor,  # [D, N]
    B: Tensor,  # [B, L, N]
    C: Tensor,  # [B, L, N]
    delta_bias: Tensor,  # [D]
    tree: Tree,
    next_step: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Sum every token's subtree: h_t = Δ_t B_t x_t + Σ_children w_c h_c, y_t = C_t·h_t (MambaTree, Algorithm 2).

    Δ = softplus(delta + delta_bias), and the edge above token t weighs w_t = exp(Δ_t A). Half types are computed in
    float32. The compiled kernels write no state to memory in the forward pass, and in the backward pass as few as the
    tree's branching needs.

    Args:
        x: features.
        delta: step sizes before bias and softplus, in the dtype of ``x``.
        A: decay rates, negative; float32, or float64 beside float64.
        B: input weights of every token, in the dtype of ``x``.
        C: output weights of every token, in the dtype of ``x``.
        delta_bias: bias of the step sizes, in the dtype of ``A``.
        tree: parent and order, as for :func:`~tree_ssm.ops.tree_scan`.
        next_step: whether the edge above token t has the step of token t + 1 instead of its own (above the last token,
            that of the first). Then h is Mamba's on a chain whose last token is the root.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one.

    Returns:
        y ``[B, L, D]`` in the dtype of ``x``, and the root's state ``[B, D, N]`` in the dtype of ``A``.

    Raises:
        ValueError: an argument does not fit; the message says which.
    """
    _check(x, delta, A, B, C, delta_bias, tree)
    chosen = choose_backend("subtree_scan", "tree_ssm::selective_subtree_scan", backend, x.device)
    if chosen == "reference":
        return subtree_scan_reference(x, delta, A, B, C, delta_bias, tree, next_step)
    scan = torch.ops.tree_ssm.selective_subtree_scan
    if chosen == "cpu":
        return call(scan, x, delta, A, B, C, delta_bias, tree.parent, tree.order, next_step)
    schedule = torch.ops.tree_ssm.tree_schedule(tree.parent)
    parts = [
        scan(x, delta, a, b, c, delta_bias, tree.parent, tree.order, next_step, schedule)
        for a, b, c in zip(*(t.split(_STATES_AT_ONCE, dim=-1) for t in (A, B, C)), strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    outputs, states = zip(*parts, strict=True)
    return torch.stack(outputs).sum(0), torch.cat(states, dim=-1)


def _check(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, delta_bias: Tensor, tree: Tree) -> None:
    op = "subtree_scan"
    if x.dim() != 3 or x.shape[1] < 1:
        raise ValueError(f"{op}: x must be [B, L, D] with L at least 1, got {shape_of(x)}")
    if x.dtype not in FLOATS:
        raise ValueError(f"{op}: x must be a real floating-point tensor, got {x.dtype}")
    batch, length, channels = x.shape
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] < 1:
        raise ValueError(f"{op}: A must be [D, N] with D = {channels} and N at least 1, got {shape_of(A)}")
    wide, tokens, states = accumulate_dtype(x.dtype), (batch, length), (batch, length, A.shape[1])
    for name, value, shape, dtype in (
        ("delta", delta, x.shape, x.dtype),
        ("A", A, A.shape, wide),
        ("B", B, states, x.dtype),
        ("C", C, states, x.dtype),
        ("delta_bias", delta_bias, x.shape[2:], wide),
        ("tree.parent", tree.parent, tokens, torch.int64),
        ("tree.order", tree.order, tokens, torch.int64),
    ):
        if value.shape != shape or value.dtype != dtype:
            raise ValueError(
                f"{op}: {name} must be {dtype} {tuple(shape)} beside an x of {x.dtype} {shape_of(x)}, "
                f"got {value.dtype} {shape_of(value)}"
            )
    require_same_device(
        op, x=x, delta=delta, A=A, B=B, C=C, delta_bias=delta_bias, parent=tree.parent, order=tree.order
    )


__all__ = ["subtree_scan", "subtree_scan_reference"]
