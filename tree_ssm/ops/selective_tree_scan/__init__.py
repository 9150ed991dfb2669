"""The tree scan of a selective model with one state a channel, from the model's inputs; the README has the maths."""

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import FLOATS, accumulate_dtype, require_same_device, shape_of
from tree_ssm.ops.spanning_tree import Tree
from tree_ssm.ops.tree_scan import tree_scan

from . import register as _register  # noqa: F401  registers the operator's rules
from .reference import source_and_weight


def selective_tree_scan(
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    A: Tensor,  # [D]
    B: Tensor,  # [B, L]
    delta_bias: Tensor,  # [D]
    tree: Tree,
    backend: Backend = "auto",
) -> Tensor:
    """Compute h_i = Σ_j (∏ exp(Δ A) over the path from i to j) Δ_j B_j x_j with Δ = softplus(delta + delta_bias).

    This is :func:`~tree_ssm.ops.tree_scan` of the source Δ·B·x and the weight exp(Δ·A) (MambaTree, section 3.2, with
    one state a channel). On a GPU neither is written to memory. Half types are computed in float32.

    Args:
        x: features.
        delta: step sizes before bias and softplus, in the dtype of ``x``.
        A: decay rates, negative; float32, or float64 beside float64.
        B: input weight of every token, in the dtype of ``x``.
        delta_bias: bias of the step sizes, in the dtype of ``A``.
        tree: parent and order, as for :func:`~tree_ssm.ops.tree_scan`.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one.

    Returns:
        h ``[B, L, D]`` in the dtype of ``x``.

    Raises:
        ValueError: an argument does not fit; the message says which.
    """
    _check(x, delta, A, B, delta_bias, tree)
    # Only GPUs have a kernel of their own. On the CPU the scan is composed of PyTorch's operations and the tree scan.
    kernel = "tree_ssm::selective_tree_scan" if x.is_cuda else "tree_ssm::tree_scan"
    chosen = choose_backend("selective_tree_scan", kernel, backend, x.device)
    if chosen == "cuda":
        schedule = torch.ops.tree_ssm.tree_schedule(tree.parent)
        return torch.ops.tree_ssm.selective_tree_scan(x, delta, A, B, delta_bias, schedule, tree.parent, tree.order)
    source, weight = source_and_weight(x, delta, A, B, delta_bias)
    return tree_scan(source, weight, tree, backend=chosen).to(x.dtype)


def _check(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor, tree: Tree) -> None:
    if x.dim() != 3 or x.shape[1] < 1:
        raise ValueError(f"selective_tree_scan: x must be [B, L, D] with L at least 1, got {shape_of(x)}")
    if x.dtype not in FLOATS:
        raise ValueError(f"selective_tree_scan: x must be a real floating-point tensor, got {x.dtype}")
    wide = accumulate_dtype(x.dtype)
    for name, value, shape, dtype in (
        ("delta", delta, x.shape, x.dtype),
        ("A", A, x.shape[2:], wide),
        ("B", B, x.shape[:2], x.dtype),
        ("delta_bias", delta_bias, x.shape[2:], wide),
        ("tree.parent", tree.parent, x.shape[:2], torch.int64),
        ("tree.order", tree.order, x.shape[:2], torch.int64),
    ):
        if value.shape != shape or value.dtype != dtype:
            raise ValueError(
                f"selective_tree_scan: {name} must be {dtype} {tuple(shape)} beside an x of {x.dtype} {shape_of(x)}, "
                f"got {value.dtype} {shape_of(value)}"
            )
    require_same_device(
        "selective_tree_scan", x=x, delta=delta, A=A, B=B, delta_bias=delta_bias, parent=tree.parent, order=tree.order
    )


__all__ = ["selective_tree_scan"]
