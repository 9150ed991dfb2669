"""Norms over channels: of a map, or with its gate or the sum of the residual stream in the same pass."""

from typing import NamedTuple

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import FLOATS, accumulate_dtype, require_same_device, shape_of

from . import register as _register  # noqa: F401  registers the operators' rules
from .reference import gated_norm_reference, norm_reference, residual_norm_reference

# Channels that fit in the GPU kernels' registers, read one by one; see csrc/norm/cuda/tuning.h.
MOST_CHANNELS = 4096


class NormedStream(NamedTuple):
    """A residual stream after a summand was added to it, and its norm."""

    normed: Tensor  # [..., C]
    stream: Tensor  # [..., C], in the dtype of the stream before


def layer_norm(
    x: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    bias: Tensor | None = None,  # [C]
    eps: float = 1e-5,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Norm the channels of every token: y = weight ⊙ (x − mean) / √(variance + eps) + bias.

    Args:
        x: a map; its last dimension are the channels.
        weight: scale of every channel.
        bias: shift of every channel; None for none.
        eps: added to the variance.
        dtype: of the result; None for that of ``x``. The result is rounded to it once. ``x`` and the result are float32
            or one half type, or both float64.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one. The GPU kernel takes up to
            4,096 channels; beyond, ``"auto"`` takes the reference.

    Returns:
        y ``[..., C]``. Everything in between is float32, or float64 for float64.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    return _norm("layer_norm", x, weight, bias, eps, True, dtype, backend)


def rms_norm(
    x: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Norm the channels of every token by their root mean square: y = weight ⊙ x / √(mean x² + eps).

    The arguments and the result are those of :func:`layer_norm`.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    return _norm("rms_norm", x, weight, None, eps, False, dtype, backend)


def gated_layer_norm(
    x: Tensor,  # [..., C]
    gate: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    bias: Tensor | None = None,  # [C]
    eps: float = 1e-5,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Norm the channels of every token, and multiply them by a gate: y = LN(x) ⊙ silu(gate).

    The norm, the activation and the product are one pass over memory, and so are all gradients. The normed map and the
    activated gate are not kept for the backward pass, which computes them again.

    Args:
        x: a map; its last dimension are the channels.
        gate: another map of the same shape; the norm is multiplied by its SiLU, gate · σ(gate).
        weight: scale of every channel.
        bias: shift of every channel; None for none.
        eps: added to the variance.
        dtype: of the result; None for that of ``x``. ``x``, the gate and the result are each float32 or one half type,
            or all float64. If they are of two types, the half type is first converted to float32, which takes a pass
            of its own.
        backend: as for :func:`layer_norm`.

    Returns:
        y ``[..., C]``. Everything in between is float32, or float64 for float64.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    return _gated_norm("gated_layer_norm", x, gate, weight, bias, eps, True, dtype, backend)


def gated_rms_norm(
    x: Tensor,  # [..., C]
    gate: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Norm the channels of every token by their root mean square, and multiply them by a gate.

    The norm comes before the gate, as in Mamba2's gated norm with ``norm_before_gate=True`` and one group. The
    arguments and the result are those of :func:`gated_layer_norm`.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    return _gated_norm("gated_rms_norm", x, gate, weight, None, eps, False, dtype, backend)


def residual_layer_norm(
    x: Tensor,  # [..., C]
    residual: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    bias: Tensor | None = None,  # [C]
    eps: float = 1e-5,
    scale: Tensor | None = None,  # [B]
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> NormedStream:
    """Add a branch to the residual stream, and norm the sum: stream = residual + scale · x, y = LN(stream).

    Both are computed in one pass over memory, and so are their gradients.

    Args:
        x: the result of a branch.
        residual: the stream, in its own dtype. Under autocast our models keep it in float32 beside branches of a half
            type.
        weight: scale of every channel.
        bias: shift of every channel; None for none.
        eps: added to the variance.
        scale: a factor for every sample, as stochastic depth draws them; None for 1. ``x`` is then ``[B, ..., C]``.
        dtype: of the normed result; None for that of ``x``. ``x``, the stream and the result are each float32 or one
            half type, or all float64.
        backend: as for :func:`layer_norm`.

    Returns:
        The normed result and the new stream, which has the dtype of ``residual``. The norm is that of the stream as it
        is after rounding.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    return _residual_norm("residual_layer_norm", x, residual, weight, bias, eps, True, scale, dtype, backend)


def residual_rms_norm(
    x: Tensor,  # [..., C]
    residual: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    eps: float = 1e-6,
    scale: Tensor | None = None,  # [B]
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> NormedStream:
    """Add a branch to the residual stream, and norm the sum by its root mean square.

    The arguments and the results are those of :func:`residual_layer_norm`.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    return _residual_norm("residual_rms_norm", x, residual, weight, None, eps, False, scale, dtype, backend)


def _norm(
    op: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype | None,
    backend: Backend,
) -> Tensor:
    dtype = x.dtype if dtype is None else dtype
    _check(op, x, weight, bias, {"x": x.dtype, "dtype": dtype})
    require_same_device(op, x=x, weight=weight, bias=bias)
    if _choose(op, x, backend) == "reference":
        return norm_reference(x, weight, bias, eps, centred, dtype)
    parameters = _parameters(x.dtype, weight, bias)
    return torch.ops.ssm_core.norm(_tokens(x), *parameters, eps, centred, dtype).reshape(x.shape)


def _gated_norm(
    op: str,
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype | None,
    backend: Backend,
) -> Tensor:
    dtype = x.dtype if dtype is None else dtype
    _check(op, x, weight, bias, {"x": x.dtype, "gate": gate.dtype, "dtype": dtype})
    if gate.shape != x.shape:
        raise ValueError(f"{op}: gate must have x's shape {shape_of(x)}, got {shape_of(gate)}")
    require_same_device(op, x=x, gate=gate, weight=weight, bias=bias)
    if _choose(op, x, backend) == "reference":
        return gated_norm_reference(x, gate, weight, bias, eps, centred, dtype)
    # The kernels take one type, so that they hold a half type's rows in half as many registers.
    kind = x.dtype if x.dtype == gate.dtype == dtype else torch.float32
    maps = (_tokens(x.to(kind)), _tokens(gate.to(kind)))
    y = torch.ops.ssm_core.gated_norm(*maps, *_parameters(kind, weight, bias), eps, centred)
    return y.reshape(x.shape).to(dtype)


def _residual_norm(
    op: str,
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    scale: Tensor | None,
    dtype: torch.dtype | None,
    backend: Backend,
) -> NormedStream:
    dtype = x.dtype if dtype is None else dtype
    _check(op, x, weight, bias, {"x": x.dtype, "residual": residual.dtype, "dtype": dtype})
    if residual.shape != x.shape:
        raise ValueError(f"{op}: residual must have x's shape {shape_of(x)}, got {shape_of(residual)}")
    if scale is not None and (x.dim() < 2 or scale.shape != x.shape[:1]):
        raise ValueError(f"{op}: scale must be [B] for x [B, ..., C] of {shape_of(x)}, got {shape_of(scale)}")
    require_same_device(op, x=x, residual=residual, weight=weight, bias=bias, scale=scale)
    if _choose(op, x, backend) == "reference":
        return NormedStream(*residual_norm_reference(x, residual, scale, weight, bias, eps, centred, dtype))
    factors = None if scale is None else scale.to(accumulate_dtype(x.dtype)).contiguous()
    parameters = _parameters(x.dtype, weight, bias)
    results = torch.ops.ssm_core.residual_norm(_tokens(x), _tokens(residual), factors, *parameters, eps, centred, dtype)
    return NormedStream(*(y.reshape(x.shape) for y in results))


def _check(op: str, x: Tensor, weight: Tensor, bias: Tensor | None, dtypes: dict[str, torch.dtype]) -> None:
    if x.dim() == 0:
        raise ValueError(f"{op}: x must be [..., C], got a tensor without dimensions")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.shape != x.shape[-1:]:
            raise ValueError(f"{op}: {name} must be [C] with C = {x.shape[-1]}, got {shape_of(value)}")
    found = set(dtypes.values())
    halves = found - {torch.float32}
    if not found <= set(FLOATS) or len(halves) > 1 or (torch.float64 in found and len(found) > 1):
        words = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise ValueError(f"{op}: all must be float64, or each float32 or one half type, got {words}")


def _choose(op: str, x: Tensor, backend: Backend) -> str:
    if x.device.type == "cuda" and x.shape[-1] > MOST_CHANNELS:
        if backend == "cuda":
            raise ValueError(f"{op}: backend 'cuda' takes at most {MOST_CHANNELS} channels, got {x.shape[-1]}")
        if backend == "auto":
            return "reference"
    return choose_backend(op, "ssm_core::norm", backend, x.device)


def _tokens(
    x: Tensor,  # [..., C]
) -> Tensor:  # [B, L, C]
    if x.dim() == 1:
        x = x.unsqueeze(0)
    return (x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)).contiguous()


def _parameters(dtype: torch.dtype, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    wide = accumulate_dtype(dtype)
    return weight.to(wide).contiguous(), None if bias is None else bias.to(wide).contiguous()


__all__ = [
    "NormedStream",
    "gated_layer_norm",
    "gated_norm_reference",
    "gated_rms_norm",
    "layer_norm",
    "norm_reference",
    "residual_layer_norm",
    "residual_norm_reference",
    "residual_rms_norm",
    "rms_norm",
]
