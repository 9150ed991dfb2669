"""How different the tokens of a prompt are; the spanning tree of a sequence is grown from these weights."""

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import accumulate_dtype, require_integers, require_same_device, shape_of

from . import register as _register  # noqa: F401  registers the operator's rules
from .reference import token_distances_reference, token_edges

_KERNEL_REACH = 3  # kReach in csrc/token_distance/cuda/tuning.h


def token_distances(
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    delta_bias: Tensor,  # [D]
    B: Tensor,  # [B, L, N]
    start: Tensor,  # [B]
    end: Tensor,  # [B]
    reach: int = 3,
    backend: Backend = "auto",
) -> Tensor:
    """Weigh the edges that a sequence's tree may have: exp(-cosine) of the tokens' inputs (MambaTree, section 3.3).

    The input of a token is u = Δ x ⊗ B over all D·N channels, with Δ = softplus(delta + delta_bias). Only tokens of the
    prompt, ``start`` … ``end`` - 1, are compared. Outside, edges between neighbours weigh 0, and all other edges weigh
    more than any edge of the prompt. No gradient passes through, and no tangent.

    Args:
        x: features.
        delta: step sizes before bias and softplus, in the dtype of ``x``.
        delta_bias: bias of the step sizes; float32, or float64 beside float64.
        B: input weights of every token, in the dtype of ``x``.
        start: first token of each prompt.
        end: the token after the last of each prompt.
        reach: the largest distance of two tokens that an edge may join.
        backend: the implementation; ``"auto"`` takes the compiled kernel on GPUs for a reach of up to 3, and the
            reference elsewhere.

    Returns:
        ``[B, E]``, float32 (float64 for float64 features), in the order of :func:`token_edges`.

    Raises:
        ValueError: an argument does not fit; the message says which.
    """
    op = "token_distances"
    if x.dim() != 3 or x.shape[1] < 1 or not x.dtype.is_floating_point:
        raise ValueError(f"{op}: x must be real [B, L, D] with L at least 1, got {x.dtype} {shape_of(x)}")
    require_integers(op, reach=reach)
    if B.dim() != 3 or reach < 1:
        raise ValueError(f"{op}: B must be [B, L, N] and reach at least 1, got {shape_of(B)} and {reach}")
    rows, wide = x.shape[:1], accumulate_dtype(x.dtype)
    for name, value, shape, dtype in (
        ("delta", delta, x.shape, x.dtype),
        ("delta_bias", delta_bias, x.shape[2:], wide),
        ("B", B, (*x.shape[:2], B.shape[2]), x.dtype),
        ("start", start, rows, torch.int64),
        ("end", end, rows, torch.int64),
    ):
        if value.shape != shape or value.dtype != dtype:
            raise ValueError(
                f"{op}: {name} must be {dtype} {tuple(shape)} beside an x of {x.dtype} {shape_of(x)}, "
                f"got {value.dtype} {shape_of(value)}"
            )
    require_same_device(op, x=x, delta=delta, delta_bias=delta_bias, B=B, start=start, end=end)
    x, delta, delta_bias, B = (value.detach() for value in (x, delta, delta_bias, B))
    if backend == "auto" and (x.device.type != "cuda" or reach > _KERNEL_REACH):
        backend = "reference"
    if choose_backend(op, "tree_ssm::token_distance", backend, x.device) == "reference":
        return token_distances_reference(x, delta, delta_bias, B, start, end, reach)
    return torch.ops.tree_ssm.token_distance(x, delta, delta_bias, B, start, end, reach)


__all__ = ["token_distances", "token_distances_reference", "token_edges"]
