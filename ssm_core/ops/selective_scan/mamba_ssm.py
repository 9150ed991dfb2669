"""The selective scan by the CUDA kernel of the package mamba-ssm, where that is installed.

Its kernel takes float32 and half types, and gives the last state no gradient.
"""

from collections.abc import Sequence

from torch import Tensor

from .reference import visiting_order


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
    """
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:
        raise ImportError(
            "selective_scan: backend 'mamba_ssm' needs the mamba-ssm package; install it or use backend='auto'"
        ) from error
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
