"""The output equation of MambaTree's state space model: the weighted, normed state plus the skip."""

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import accumulate_dtype

from . import register as _register  # noqa: F401  registers the operator's rules
from .checks import backend_that_fits, check_readout
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
    check_readout(op, h, x, C, {}, {"D": D, "weight": weight, "bias": bias})
    backend = backend_that_fits(op, backend, x, MOST_CHANNELS, MOST_CHANNELS_IN_FOURS)
    if choose_backend(op, "tree_ssm::state_readout", backend, x.device) == "reference":
        return state_readout_reference(h, x, C, D, weight, bias, eps)
    D, weight, bias = (value.to(accumulate_dtype(x.dtype)).contiguous() for value in (D, weight, bias))
    return torch.ops.tree_ssm.state_readout(h.contiguous(), x.contiguous(), C.to(x.dtype), D, weight, bias, eps)


__all__ = ["state_readout", "state_readout_reference"]
