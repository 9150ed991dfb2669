"""The selective scan by the CUDA kernel of the package mamba-ssm, where that is installed.

Its kernel takes float32 and half types, and gives the last state no gradient. It has first derivatives in reverse mode
alone. A second derivative would be wrong without an error, so everything else is refused here.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C._functorch import maybe_current_level

from .reference import visiting_order

_OTHERWISE = "use backend='auto'"


class _FirstOrder(torch.autograd.Function):
    """The identity. Its gradient cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        return tuple(x.view_as(x) for x in inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        # The inputs are passed on so that the refusal is on the way from the gradients to each of them.
        return _Refusal.apply(*grads, *ctx.saved_tensors) if torch.is_grad_enabled() else grads

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> NoReturn:
        raise NotImplementedError(f"selective_scan: backend 'mamba_ssm' has no forward mode; {_OTHERWISE}")


class _Refusal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *grads_and_inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(g.view_as(g) for g in grads_and_inputs[: len(grads_and_inputs) // 2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise NotImplementedError(f"selective_scan: backend 'mamba_ssm' has no second derivative; {_OTHERWISE}")


def selective_scan_mamba(
    u: Tensor,  # [B, G, L, D]
    delta: Tensor,  # [B, K, L, D]
    A: Tensor,  # [K, D, N]
    B: Tensor,  # [B, K, L, N]
    C: Tensor,  # [B, K, L, N]
    D: Tensor | None,  # [K, D]
    delta_bias: Tensor | None,  # [K, D]
    order: Tensor | None,  # [B, K, L]
    reverse: Sequence[bool],
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Gather every input into the order of visits, scan with channels first, and scatter the result back.

    Returns:
        y ``[B, G, L, D]`` and the last state ``[B, K, D, N]``, as the reference gives them.

    Raises:
        ImportError: mamba_ssm is not installed.
        NotImplementedError: a second derivative, forward mode or a transform of torch.func is asked for.
    """
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:
        raise ImportError(
            "selective_scan: backend 'mamba_ssm' needs the mamba-ssm package; install it or use backend='auto'"
        ) from error
    if maybe_current_level() is not None:
        raise NotImplementedError(f"selective_scan: backend 'mamba_ssm' has no transforms of torch.func; {_OTHERWISE}")
    given = [x for x in (u, delta, A, B, C, D, delta_bias) if x is not None]
    wrapped = iter(_FirstOrder.apply(*given))
    u, delta, A, B, C = (next(wrapped) for _ in range(5))
    D, delta_bias = (None if x is None else next(wrapped) for x in (D, delta_bias))
    batch, groups, length, channels = u.shape
    directions = len(reverse)
    inner = directions // groups
    in_order = order is None and not any(reverse)
    steps = None if in_order else visiting_order(order, reverse, batch, length, u.device)

    def channels_first(x: Tensor) -> Tensor:  # [B, K, L, X] -> [B, K, X, L] in the order of visits
        x = x if steps is None else x.gather(2, steps.unsqueeze(-1).expand_as(x))
        return x.transpose(2, 3).contiguous()

    y, last_state = selective_scan_fn(
        channels_first(u.repeat_interleave(inner, dim=1)).flatten(1, 2),
        channels_first(delta).flatten(1, 2),
        A.flatten(0, 1),
        channels_first(B),
        channels_first(C),
        None if D is None else D.flatten(),
        delta_bias=None if delta_bias is None else delta_bias.flatten(),
        delta_softplus=delta_softplus,
        return_last_state=True,
    )
    y = y.unflatten(1, (directions, channels)).transpose(2, 3)
    if steps is not None:
        y = y.new_zeros(y.shape).scatter(2, steps.unsqueeze(-1).expand_as(y), y)
    return y.unflatten(1, (groups, inner)).sum(2), last_state.unflatten(1, (directions, channels))
