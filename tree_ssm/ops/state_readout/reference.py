"""The readout of the normed state in plain PyTorch: the definition that kernels are tested against."""

from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype


def state_readout_reference(
    h: Tensor,  # [B, L, D]
    x: Tensor,  # [B, L, D]
    C: Tensor,  # [B, L]
    D: Tensor,  # [D]
    weight: Tensor,  # [D]
    bias: Tensor,  # [D]
    eps: float,
) -> Tensor:  # [B, L, D]
    """Compute C ⊙ LN(h) + D ⊙ x in float32 or float64, and round it to the dtype of ``x``."""
    # Not F.layer_norm: its derivatives in forward mode are themselves differentiated wrongly (pytorch issue 196700).
    dtype = accumulate_dtype(x.dtype)
    centred = h.to(dtype) - h.to(dtype).mean(-1, keepdim=True)
    normed = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    y = C.to(dtype).unsqueeze(-1) * (normed * weight.to(dtype) + bias.to(dtype)) + D.to(dtype) * x.to(dtype)
    return y.to(x.dtype)
