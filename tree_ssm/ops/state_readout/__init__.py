"""The output equation of MambaTree's state space model: the weighted, normed state plus the skip."""

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import accumulate_dtype, require_same_device, shape_of

from . import register as _register  # noqa: F401  registers the operator's rules
from .reference import state_readout_reference

# Channels that fit in the GPU kernel's registers, read in fours or one by one; see csrc/state_readout/cuda/tuning.h.
MOST_CHANNELS_IN_FOURS, MOST_CHANNELS = 2560, 1024


def state_readout(
    h: Tensor,  # [B, L, D]
    x: Tensor,  # [B, L, D]
    C: Tensor,  # [B, L]
    D: Tensor,  # [D]
    weight: Tensor,  # [D]
    bias: Tensor,  # [D]
    eps: float = 1e-5,
    backend: Backend = "auto",
) -> Tensor:
    """Compute y = C ⊙ LN(h) + D ⊙ x, the output of MambaTree's scan with one state a channel.

    Args:
        h: state after the tree scan, in the dtype of ``x``.
        x: input of the state space model.
        C: output weight of each token.
        D: weight of the skip.
        weight: scale of the layer norm over the channels.
        bias: shift of the layer norm.
        eps: added to the variance.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one. The GPU kernel takes up to
            2,560 channels if their number is divisible by four, else up to 1,024. Beyond, ``"auto"`` takes the
            reference.

    Returns:
        y ``[B, L, D]`` in the dtype of ``x``; half types are computed in float32.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    op = "state_readout"
    if x.dim() != 3 or not x.dtype.is_floating_point:
        raise ValueError(f"{op}: x must be real [B, L, D], got {x.dtype} {shape_of(x)}")
    if h.shape != x.shape:
        raise ValueError(f"{op}: h must have x's shape {shape_of(x)}, got {shape_of(h)}")
    if C.shape != x.shape[:2]:
        raise ValueError(f"{op}: C must be [B, L] = {shape_of(x)[:2]}, got {shape_of(C)}")
    channels = x.shape[2]
    for name, value in (("D", D), ("weight", weight), ("bias", bias)):
        if value.shape != (channels,):
            raise ValueError(f"{op}: {name} must be [D] with D = {channels}, got {shape_of(value)}")
    require_same_device(op, x=x, h=h, C=C, D=D, weight=weight, bias=bias)
    dtype = accumulate_dtype(x.dtype)
    if h.dtype != x.dtype:
        raise ValueError(f"{op}: h must be {x.dtype} as x, got {h.dtype}")
    if x.device.type == "cuda" and channels > (MOST_CHANNELS if channels % 4 else MOST_CHANNELS_IN_FOURS):
        if backend == "cuda":
            raise ValueError(
                f"{op}: backend 'cuda' takes at most {MOST_CHANNELS} channels, or {MOST_CHANNELS_IN_FOURS} in fours, "
                f"got {channels}"
            )
        if backend == "auto":
            backend = "reference"
    if choose_backend(op, "tree_ssm::state_readout", backend, x.device) == "reference":
        return state_readout_reference(h, x, C, D, weight, bias, eps)
    D, weight, bias = (value.to(dtype).contiguous() for value in (D, weight, bias))
    return torch.ops.tree_ssm.state_readout(h.contiguous(), x.contiguous(), C.to(x.dtype), D, weight, bias, eps)


__all__ = ["state_readout", "state_readout_reference"]
