"""The output equation of MambaTree's state space model together with the gated norm that follows it in a mixer."""

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import accumulate_dtype
from ssm_core.ops.norm import gated_layer_norm
from tree_ssm.ops.state_readout import state_readout
from tree_ssm.ops.state_readout.checks import backend_that_fits, check_readout

from . import register as _register  # noqa: F401  registers the operator's rules
from .reference import gated_state_readout_reference

# Channels that fit in the GPU kernels' registers and shared memory, read in fours or one by one; see
# csrc/gated_state_readout/cuda/tuning.h.
MOST_CHANNELS_IN_FOURS, MOST_CHANNELS = 1280, 1024


def gated_state_readout(
    h: Tensor,  # [B, L, D]
    x: Tensor,  # [B, L, D]
    C: Tensor,  # [B, L]
    D: Tensor,  # [D]
    weight: Tensor,  # [D]
    bias: Tensor,  # [D]
    gate: Tensor,  # [B, L, D]
    out_weight: Tensor,  # [D]
    out_bias: Tensor,  # [D]
    eps: float = 1e-5,
    out_eps: float = 1e-5,
    backend: Backend = "auto",
) -> Tensor:
    """Compute y = LN(r) ⊙ silu(gate) with r = C ⊙ LN(h) + D ⊙ x, the end of MambaTree's mixer before its last product.

    This is :func:`state_readout` and then :func:`~ssm_core.ops.gated_layer_norm` in one pass over memory, and so are
    all gradients. r is neither written nor kept for the backward pass, which computes it again.

    Args:
        h: state after the tree scan, in the dtype of ``x``.
        x: input of the state space model.
        C: output weight of each token.
        D: weight of the skip.
        weight: scale of the layer norm of the state, over the channels.
        bias: shift of this norm.
        gate: another map in the dtype of ``x``; the result is multiplied by its SiLU, gate · σ(gate). It may be a part
            of the channels of a wider map, such as one half of a projection's result.
        out_weight: scale of the layer norm of r.
        out_bias: shift of this norm.
        eps: added to the variance of the state.
        out_eps: added to the variance of r.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one. The GPU kernel takes up to
            1,280 channels if their number is divisible by four, else up to 1,024. Beyond, ``"auto"`` takes the two
            operators one after another.

    Returns:
        y ``[B, L, D]`` in the dtype of ``x``. Half types are computed in float32, and r is rounded to the dtype of
        ``x``.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    op = "gated_state_readout"
    parameters = {"D": D, "weight": weight, "bias": bias, "out_weight": out_weight, "out_bias": out_bias}
    check_readout(op, h, x, C, {"gate": gate}, parameters)
    if backend_that_fits(op, backend, x, MOST_CHANNELS, MOST_CHANNELS_IN_FOURS) != backend:
        return gated_layer_norm(state_readout(h, x, C, D, weight, bias, eps), gate, out_weight, out_bias, out_eps)
    if choose_backend(op, f"tree_ssm::{op}", backend, x.device) == "reference":
        return gated_state_readout_reference(h, x, C, D, weight, bias, eps, gate, out_weight, out_bias, out_eps)
    wide = (value.to(accumulate_dtype(x.dtype)).contiguous() for value in parameters.values())
    D, weight, bias, out_weight, out_bias = wide
    return torch.ops.tree_ssm.gated_state_readout(
        h.contiguous(), x.contiguous(), C.to(x.dtype), D, weight, bias, eps, gate, out_weight, out_bias, out_eps
    )


__all__ = ["gated_state_readout", "gated_state_readout_reference"]
