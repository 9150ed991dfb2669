"""The selective scan in plain PyTorch, differentiated by autograd: the definition that kernels are tested against."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def visiting_order(
    order: Tensor | None, reverse: Sequence[bool], batch: int, length: int, device: torch.device
) -> Tensor:
    """The token visited at each step, ``[B, K, L]``: ``order``, or row by row, with the reversed directions flipped."""
    if order is None:
        order = torch.arange(length, device=device).expand(batch, len(reverse), length)
    return torch.stack([order[:, k].flip(-1) if flip else order[:, k] for k, flip in enumerate(reverse)], dim=1)


def selective_scan_reference(
    u: Tensor,  # [B, G, L, D]
    delta: Tensor,  # [B, K, L, D]
    A: Tensor,  # [K, D, N]
    B: Tensor,  # [B, K, L, N]
    C: Tensor,  # [B, K, L, N]
    D: Tensor | None,  # [K, D]
    delta_bias: Tensor | None,  # [K, D]
    order: Tensor | None,  # [B, K, L]
    reverse: Sequence[bool],  # [K]
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Compute h ← exp(Δ·A)·h + Δ·B·u, y = C·h + D·u, one token after another.

    The K directions fall into G groups of K / G. The directions of a group read the same ``u``, and their outputs are
    summed.

    Returns:
        y ``[B, G, L, D]`` at the tokens' own places, and the last state ``[B, K, D, N]``.
    """
    batch, groups, length, _ = u.shape
    inner = len(reverse) // groups
    dtype = A.dtype  # float32 or float64, in which half types are accumulated
    steps = visiting_order(order, reverse, batch, length, u.device)

    def in_order(x: Tensor) -> Tensor:
        return x.to(dtype).gather(2, steps.unsqueeze(-1).expand_as(x))

    u_seq = in_order(u.repeat_interleave(inner, dim=1))  # [B, K, L, D]
    dt = in_order(delta)
    if delta_bias is not None:
        dt = dt + delta_bias[:, None]
    if delta_softplus:
        dt = F.softplus(dt)
    decay = torch.exp(dt.unsqueeze(-1) * A[:, None])  # [B, K, L, D, N]
    drive = (dt * u_seq).unsqueeze(-1) * in_order(B).unsqueeze(-2)

    h = torch.zeros_like(drive[:, :, 0])
    states = []
    for a, b in zip(decay.unbind(2), drive.unbind(2), strict=True):
        h = a * h + b
        states.append(h)
    y = torch.einsum("bkldn,bkln->bkld", torch.stack(states, dim=2), in_order(C))
    if D is not None:
        y = y + D[:, None] * u_seq

    y = torch.zeros_like(y).scatter(2, steps.unsqueeze(-1).expand_as(y), y)
    return y.unflatten(1, (groups, inner)).sum(2).to(u.dtype), h
