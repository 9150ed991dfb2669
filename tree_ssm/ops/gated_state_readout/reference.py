"""The readout and the gated norm after it in plain PyTorch: the definition that kernels are tested against."""

from torch import Tensor

from ssm_core.ops.norm import gated_norm_reference
from tree_ssm.ops.state_readout import state_readout_reference


def gated_state_readout_reference(
    h: Tensor,  # [B, L, D]
    x: Tensor,  # [B, L, D]
    C: Tensor,  # [B, L]
    D: Tensor,  # [D]
    weight: Tensor,  # [D]
    bias: Tensor,  # [D]
    eps: float,
    gate: Tensor,  # [B, L, D]
    out_weight: Tensor,  # [D]
    out_bias: Tensor,  # [D]
    out_eps: float,
) -> Tensor:  # [B, L, D]
    """Compute r = C ⊙ LN(h) + D ⊙ x and then LN(r) ⊙ silu(gate). Round r and the result to the dtype of ``x``."""
    r = state_readout_reference(h, x, C, D, weight, bias, eps)
    return gated_norm_reference(r, gate, out_weight, out_bias, out_eps, True, x.dtype)
