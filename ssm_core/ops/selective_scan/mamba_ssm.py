"""The same scan through mamba_ssm's CUDA kernel, where that package is installed: a peer to compare with."""

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
    """Gather every input into visiting order, scan channels first, and scatter back.

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

    def channels_first(x: Tensor) -> Tensor:  # [B, K, L, X] -> [B, K, X, L] in visiting order
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
