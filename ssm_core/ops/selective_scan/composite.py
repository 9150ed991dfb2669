"""The selective scan and its gradients by differentiable operations on whole states: the source of higher derivatives.

The kernels keep no state, so what they compute has no derivative of its own. These composites compute the same from
the states of all steps. Those are ``[B, K, L, D, N]`` in float32 or float64, and about ten tensors of that size are
alive at once. The formulas are those of the README; the recurrence is ``ssm_core::linear_recurrence``.

Sums of products are not written as matrix products, because those follow autocast and the setting for TF32. Autocast
cannot be switched off inside a transform of torch.func.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .recurrence import linear_recurrence, previous
from .reference import visiting_order


@dataclass(frozen=True)
class _Visits:
    """The order in which the directions visit the tokens, and how arguments follow it."""

    steps: Tensor | None  # [B, K, L], None if it is the tokens' own
    inner: int  # directions in a group
    dtype: torch.dtype  # of the states

    def gather(self, x: Tensor) -> Tensor:  # [B, K, L, X], at the tokens' places -> step by step
        x = x.to(self.dtype)
        return x if self.steps is None else x.gather(2, self.steps.unsqueeze(-1).expand_as(x))

    def gather_group(self, x: Tensor) -> Tensor:  # [B, G, L, X] -> [B, K, L, X]
        return self.gather(x if self.inner == 1 else x.repeat_interleave(self.inner, dim=1))

    def scatter(self, x: Tensor) -> Tensor:  # [B, K, L, X], step by step -> at the tokens' places
        return x if self.steps is None else torch.zeros_like(x).scatter(2, self.steps.unsqueeze(-1).expand_as(x), x)

    def scatter_group(self, x: Tensor) -> Tensor:  # [B, K, L, X] -> [B, G, L, X]
        x = self.scatter(x)
        return x if self.inner == 1 else x.unflatten(1, (x.shape[1] // self.inner, self.inner)).sum(2)


@dataclass(frozen=True)
class _Inputs:
    """The arguments step by step."""

    u: Tensor  # [B, K, L, D]
    raw_step: Tensor  # [B, K, L, D]: delta + delta_bias
    step: Tensor  # [B, K, L, D]: Δ
    decay: Tensor  # [B, K, L, D, N]
    states: Tensor  # [B, K, L, D, N]
    B: Tensor  # [B, K, L, N]
    C: Tensor  # [B, K, L, N]


def _visits(u: Tensor, A: Tensor, order: Tensor | None, reverse: Sequence[bool]) -> _Visits:
    in_place = order is None and not any(reverse)
    steps = None if in_place else visiting_order(order, reverse, u.shape[0], u.shape[2], u.device)
    return _Visits(steps, len(reverse) // u.shape[1], A.dtype)


def _inputs(
    visits: _Visits,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> _Inputs:
    raw_step = visits.gather(delta)
    if delta_bias is not None:
        raw_step = raw_step + delta_bias[:, None]
    step = F.softplus(raw_step) if delta_softplus else raw_step
    u, B, C = visits.gather_group(u), visits.gather(B), visits.gather(C)
    decay = torch.exp(step.unsqueeze(-1) * A[:, None])
    states = linear_recurrence(decay, (step * u).unsqueeze(-1) * B.unsqueeze(-2))
    return _Inputs(u, raw_step, step, decay, states, B, C)


def forward(
    wanted: Sequence[bool],
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
    """Compute what ``ssm_core::selective_scan`` computes."""
    visits = _visits(u, A, order, reverse)
    x = _inputs(visits, u, delta, A, B, C, delta_bias, delta_softplus)
    y = (x.states * x.C.unsqueeze(-2)).sum(-1)
    if D is not None:
        y = y + D[:, None] * x.u
    return visits.scatter_group(y).to(u.dtype), x.states[:, :, -1]


def backward(
    wanted: Sequence[bool],
    grad_y: Tensor,  # [B, G, L, D]
    grad_last_state: Tensor | None,  # [B, K, D, N]
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor | None,
    reverse: Sequence[bool],
    delta_softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Compute what ``ssm_core::selective_scan_backward`` computes, without the gradients that are not wanted."""
    want_u, want_delta, want_A, want_B, want_C, want_D, want_bias = wanted
    visits = _visits(u, A, order, reverse)
    x = _inputs(visits, u, delta, A, B, C, delta_bias, delta_softplus)
    grad = visits.gather_group(grad_y)
    to_state = grad.unsqueeze(-1) * x.C.unsqueeze(-2)
    if grad_last_state is not None:
        to_state = torch.cat([to_state[:, :, :-1], to_state[:, :, -1:] + grad_last_state.unsqueeze(2)], dim=2)
    costate = linear_recurrence(x.decay, to_state, transposed=True)  # λ
    result: dict[str, Tensor] = {}
    to_drive = (costate * x.B.unsqueeze(-2)).sum(-1)
    if want_u:
        grad_u = to_drive * x.step
        if D is not None:
            grad_u = grad_u + D[:, None] * grad
        result["u"] = visits.scatter_group(grad_u).to(u.dtype)
    if want_delta or want_A or want_bias:
        to_exponent = costate * previous(x.states) * x.decay
        if want_A:
            result["A"] = (to_exponent * x.step.unsqueeze(-1)).sum((0, 2))
        if want_delta or want_bias:
            grad_step = (to_exponent * A[:, None]).sum(-1) + to_drive * x.u
            if delta_softplus:
                grad_step = grad_step * torch.sigmoid(x.raw_step)
            result["delta"] = visits.scatter(grad_step).to(delta.dtype)
            result["bias"] = grad_step.sum((0, 2))
    if want_B:
        result["B"] = visits.scatter((costate * (x.step * x.u).unsqueeze(-1)).sum(3)).to(B.dtype)
    if want_C:
        result["C"] = visits.scatter((x.states * grad.unsqueeze(-1)).sum(3)).to(C.dtype)
    if want_D:
        result["D"] = (grad * x.u).sum((0, 2))
    return tuple(result.get(name) for name in ("u", "delta", "A", "B", "C", "D", "bias"))
