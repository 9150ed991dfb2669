"""Selective scan: the input-dependent linear recurrence of Mamba, along any order of the tokens.

:func:`selective_scan` takes mamba_ssm's arguments. :func:`directional_scan` is the form for vision models: channels
last, and one call for all scans over one input. The README of this folder has the maths.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.calling import call
from ssm_core.ops.checks import accumulate_dtype, require_same_device, shape_of

from . import register as _register  # noqa: F401  registers the operator's rules
from .reference import selective_scan_reference, visiting_order

ScanBackend = Backend | Literal["mamba_ssm"]
_OP = "ssm_core::selective_scan"


def selective_scan(
    u: Tensor,  # [B, D, L]
    delta: Tensor,  # [B, D, L]
    A: Tensor,  # [D, N]
    B: Tensor,  # [B, N, L], [B, G, N, L] or [D, N]
    C: Tensor,  # as B
    D: Tensor | None = None,  # [D]
    z: Tensor | None = None,  # [B, D, L]
    delta_bias: Tensor | None = None,  # [D]
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    order: Tensor | None = None,  # [L], [B, L] or [B, G, L]
    reverse: bool | Sequence[bool] = False,
    backend: ScanBackend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute h ← exp(Δ·A)·h + Δ·B·u, y = C·h + D·u along the tokens (Mamba, Gu and Dao 2023, equation 2).

    The positional arguments are those of ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn``.

    Args:
        u: input.
        delta: step size Δ before bias and softplus.
        A: decay rate, negative for a stable scan. It takes part in float32, or in float64 beside float64, as do D and
            delta_bias.
        B: input weights, constant, the same for all channels, or for each of G groups of D / G neighbouring channels.
        C: output weights, in one of B's forms.
        D: weight of the skip from input to output.
        z: gate; it multiplies the output by SiLU(z).
        delta_bias: added to ``delta`` before softplus.
        delta_softplus: whether Δ = softplus(delta + delta_bias), rather than delta + delta_bias.
        return_last_state: whether to return also the state after the last step. The backend ``"mamba_ssm"`` has no
            gradient of it.
        order: the token visited at each step; every row is a permutation of 0 … L - 1, which the GPU kernel does not
            check: there the output of a token that no step visits is zero. Inputs and output stay at the tokens' own
            places.
        reverse: whether to walk the order backwards, for all groups or for each.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one.

    Returns:
        y ``[B, D, L]`` in the dtype that ``u``, ``delta``, ``B`` and ``C`` promote to. With ``return_last_state`` also
        the last state ``[B, D, N]``, in float32 or float64.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    if u.dim() != 3:
        raise ValueError(f"selective_scan: u must be [B, D, L], got {shape_of(u)}")
    batch, channels, length = u.shape
    for name, x in (("delta", delta), ("z", z)):
        if x is not None and x.shape != u.shape:
            raise ValueError(f"selective_scan: {name} must have u's shape {shape_of(u)}, got {shape_of(x)}")
    if A.dim() != 2 or A.shape[0] != channels or not A.dtype.is_floating_point:
        raise ValueError(f"selective_scan: A must be real [D, N] with D = {channels}, got {A.dtype} {shape_of(A)}")
    for name, x in (("D", D), ("delta_bias", delta_bias)):
        if x is not None and x.shape != (channels,):
            raise ValueError(f"selective_scan: {name} must be [D] with D = {channels}, got {shape_of(x)}")
    if z is not None and not z.dtype.is_floating_point:
        raise ValueError(f"selective_scan: z must be real, got {z.dtype}")
    require_same_device("selective_scan", u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, order=order)
    groups = _groups(B, C, channels)
    B4 = _grouped(B, "B", batch, groups, channels, A.shape[1], length)
    C4 = _grouped(C, "C", batch, groups, channels, A.shape[1], length)

    def split(x: Tensor) -> Tensor:  # [B, D, L] -> [B, G, L, D / G]
        return x.unflatten(1, (groups, channels // groups)).transpose(2, 3)

    def split_parameter(x: Tensor) -> Tensor:  # [D, …] -> [G, D / G, …]
        return x.unflatten(0, (groups, channels // groups))

    flags = [reverse] * groups if isinstance(reverse, bool) else list(reverse)
    y, last_state = _scan(
        split(u),
        split(delta),
        split_parameter(A),
        B4,
        C4,
        None if D is None else split_parameter(D),
        None if delta_bias is None else split_parameter(delta_bias),
        order,
        flags,
        delta_softplus,
        backend,
        "selective_scan",
    )
    y = y.transpose(2, 3).flatten(1, 2)
    if z is not None:
        y = y * F.silu(z)
    return (y, last_state.flatten(1, 2)) if return_last_state else y


def directional_scan(
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, K, L, D]
    A: Tensor,  # [K, D, N]
    B: Tensor,  # [B, K, L, N]
    C: Tensor,  # [B, K, L, N]
    D: Tensor | None = None,  # [K, D]
    delta_bias: Tensor | None = None,  # [K, D]
    *,
    order: Tensor | None = None,  # [L], [K, L] or [B, K, L]
    reverse: Sequence[bool] | None = None,  # [K]
    backend: ScanBackend = "auto",
) -> Tensor:
    """Sum K selective scans over one input, each with its own parameters and its own order of the tokens.

    Direction k visits the tokens ``order[k]``, backwards if ``reverse[k]``, with Δ = softplus(delta + delta_bias). The
    cross scan of vision models is one call with four directions. Inputs and output are at the tokens' own places.

    Args:
        x: input, read by every direction.
        delta: step size before bias and softplus, for each direction.
        A: decay rate, negative. It takes part in float32, or in float64 beside float64, as do D and delta_bias.
        B: input weights.
        C: output weights.
        D: weight of the skip from input to output.
        delta_bias: added to ``delta`` before softplus.
        order: the token visited at each step, for all directions, for each, or for each sample and direction; row by
            row if left out. As for :func:`selective_scan`, a GPU does not check it: a token that one of the directions
            does not visit has output zero.
        reverse: which directions walk their order backwards; none if left out.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one.

    Returns:
        y ``[B, L, D]`` in the dtype that ``x``, ``delta``, ``B`` and ``C`` promote to.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    op = "directional_scan"
    if x.dim() != 3:
        raise ValueError(f"{op}: x must be [B, L, D], got {shape_of(x)}")
    if delta.dim() != 4 or (delta.shape[0], *delta.shape[2:]) != tuple(x.shape):
        raise ValueError(f"{op}: delta must be [B, K, L, D] with x's B, L, D = {shape_of(x)}, got {shape_of(delta)}")
    batch, directions, length, channels = delta.shape
    if A.dim() != 3 or A.shape[:2] != (directions, channels) or not A.dtype.is_floating_point:
        raise ValueError(
            f"{op}: A must be real [K, D, N] with K, D = {directions, channels}, got {A.dtype} {shape_of(A)}"
        )
    expected = (batch, directions, length, A.shape[2])
    for name, value in (("B", B), ("C", C)):
        if value.shape != expected:
            raise ValueError(f"{op}: {name} must be [B, K, L, N] = {expected}, got {shape_of(value)}")
    for name, parameter in (("D", D), ("delta_bias", delta_bias)):
        if parameter is not None and parameter.shape != (directions, channels):
            raise ValueError(f"{op}: {name} must be [K, D] = {directions, channels}, got {shape_of(parameter)}")
    require_same_device(op, x=x, delta=delta, A=A, B=B, C=C, D=D, delta_bias=delta_bias, order=order)
    flags = [False] * directions if reverse is None else list(reverse)
    y, _ = _scan(x.unsqueeze(1), delta, A, B, C, D, delta_bias, order, flags, True, backend, op)
    return y.squeeze(1)


def _groups(B: Tensor, C: Tensor, channels: int) -> int:
    """Number of groups of channels that share B and C. If B or C is constant, each channel is a group of its own."""
    if 2 in (B.dim(), C.dim()):
        if channels == 0:
            raise ValueError("selective_scan: B and C of each channel need a channel, got D = 0")
        return channels
    if 3 in (B.dim(), C.dim()):
        if not all(x.dim() == 3 or (x.dim() == 4 and x.shape[1] == 1) for x in (B, C)):
            raise ValueError(
                f"selective_scan: B and C must have the same number of groups, got {shape_of(B)} and {shape_of(C)}"
            )
        return 1
    both = B.dim() == C.dim() == 4 and B.shape[1] == C.shape[1] and B.shape[1] > 0
    if not both or channels % B.shape[1] != 0:
        raise ValueError(
            f"selective_scan: B and C must be [B, N, L], [B, G, N, L] with G a divisor of D = {channels}, or [D, N], "
            f"got {shape_of(B)} and {shape_of(C)}"
        )
    return B.shape[1]


def _grouped(x: Tensor, name: str, batch: int, groups: int, channels: int, states: int, length: int) -> Tensor:
    """Any of the three forms of B and C as ``[B, G, L, N]``."""
    forms = {2: (channels, states), 3: (batch, states, length), 4: (batch, x.shape[1], states, length)}
    if tuple(x.shape) != forms.get(x.dim()):
        raise ValueError(
            f"selective_scan: {name} must be [B, N, L], [B, G, N, L] or [D, N] "
            f"with B, D, N, L = {batch, channels, states, length}, got {shape_of(x)}"
        )
    if x.dim() == 2:
        return x[None, :, None].expand(batch, channels, length, states)
    if x.dim() == 3:
        x = x.unsqueeze(1)
    if x.shape[1] != groups:
        x = x.repeat_interleave(groups // x.shape[1], dim=1)
    return x.transpose(2, 3)


def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    order: Tensor | None,
    reverse: list[bool],
    delta_softplus: bool,
    backend: ScanBackend,
    op: str,
) -> tuple[Tensor, Tensor]:
    """Bring dtypes and strides to the form that the kernels take, and call the chosen implementation."""
    batch, directions, length = delta.shape[:3]
    if length == 0:
        raise ValueError(f"{op}: the sequence is empty")
    if directions == 0 or A.shape[2] == 0:
        raise ValueError(f"{op}: there must be a direction and a state, got {directions} and {A.shape[2]}")
    if len(reverse) != directions:
        raise ValueError(f"{op}: reverse must have {directions} flags, got {len(reverse)}")
    if order is not None:
        order = _full_order(order, batch, directions, length, op)
    io = (u, delta, B, C)
    dtype = u.dtype
    for x in io[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    if not dtype.is_floating_point:
        raise ValueError(f"{op}: u must be a real floating-point tensor, got {dtype}")
    u, delta, B, C = (x.to(dtype) for x in io)
    parameter_dtype = accumulate_dtype(dtype)
    A = A.to(parameter_dtype)
    D, delta_bias = (None if x is None else x.to(parameter_dtype) for x in (D, delta_bias))

    if backend == "mamba_ssm":
        from .mamba_ssm import selective_scan_mamba

        return selective_scan_mamba(u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus)
    if choose_backend(op, _OP, backend, u.device) == "reference":
        return selective_scan_reference(u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus)
    u, delta = (x if x.stride(-1) == 1 else x.contiguous() for x in (u, delta))
    A = A.contiguous()
    D, delta_bias = (None if x is None else x.contiguous() for x in (D, delta_bias))
    return call(torch.ops.ssm_core.selective_scan, u, delta, A, B, C, D, delta_bias, order, reverse, delta_softplus)


def _full_order(order: Tensor, batch: int, directions: int, length: int, op: str) -> Tensor:
    """``order`` as ``[B, K, L]``."""
    fits = order.dtype == torch.int64 and 1 <= order.dim() <= 3 and order.shape[-1] == length
    if op == "selective_scan" and order.dim() == 2:
        order = order.unsqueeze(1)  # [B, L]: one order a sample
    sizes = (batch, directions, length)[3 - order.dim() :] if fits else ()
    fits = fits and all(a in (1, b) for a, b in zip(order.shape, sizes, strict=True))
    if not fits:
        forms = "[L], [B, L] or [B, G, L] with B, G" if op == "selective_scan" else "[L], [K, L] or [B, K, L] with B, K"
        sizes = (batch, directions, length)
        raise ValueError(f"{op}: order must be an int64 {forms}, L = {sizes}, got {order.dtype} {shape_of(order)}")
    return order.expand(batch, directions, length)


__all__ = ["ScanBackend", "directional_scan", "selective_scan", "selective_scan_reference", "visiting_order"]
