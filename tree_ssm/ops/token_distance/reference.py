"""Distances of a sequence's tokens in plain PyTorch: the definition that the kernel is tested against."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype, require_integers

# More than any exp(-cosine), which is at most e. Edges between neighbours join all tokens, so no tree needs another.
_NEVER = 4.0


def token_edges(
    length: int,
    reach: int,
    device: torch.device | None = None,
) -> Tensor:
    """List the pairs of tokens at most ``reach`` apart: all neighbours, then all at distance 2, and so on.

    Args:
        length: the number L of tokens.
        reach: the largest distance.
        device: the device of the result.

    Returns:
        ``[E, 2]``, int64; the earlier token comes first.

    Raises:
        ValueError: the length is negative, or there are 2^31 tokens or pairs, or more, or a size is no integer.
    """
    require_integers("token_edges", length=length, reach=reach)
    if not 0 <= length < 2**31:
        raise ValueError(f"token_edges: length must be 0 to 2^31 - 1, got {length}")
    if length * min(reach, length) >= 2**31:
        raise ValueError(f"token_edges: there are too many pairs of {length} tokens at most {reach} apart")
    token = torch.arange(length, device=device)
    ends = [torch.stack([token[:-k], token[k:]], dim=1) for k in range(1, min(reach, length - 1) + 1)]
    return torch.cat(ends) if ends else token.new_empty(0, 2)


def token_distances_reference(
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    delta_bias: Tensor,  # [D]
    B: Tensor,  # [B, L, N]
    start: Tensor,  # [B]
    end: Tensor,  # [B]
    reach: int,
) -> Tensor:  # [B, E]
    """exp(-cosine) of every pair of tokens of a prompt; elsewhere 0 for neighbours and 4 for others."""
    dtype, length = accumulate_dtype(x.dtype), x.shape[1]
    unit = [_normalized(F.softplus(delta.to(dtype) + delta_bias) * x.to(dtype)), _normalized(B.to(dtype))]
    place = torch.arange(length, device=x.device)
    weights = [x.new_empty(x.shape[0], 0, dtype=dtype)]
    for k in range(1, min(reach, length - 1) + 1):
        cosine = torch.stack([(v[:, :-k] * v[:, k:]).sum(-1) for v in unit]).prod(0)
        within = (place[:-k] >= start.unsqueeze(1)) & (place[k:] < end.unsqueeze(1))
        weights.append(torch.where(within, torch.exp(-cosine), 0.0 if k == 1 else _NEVER))
    return torch.cat(weights, dim=1)


def _normalized(v: Tensor) -> Tensor:
    return v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp_min(1e-8)
