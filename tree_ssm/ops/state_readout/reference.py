"""The readout of the normed state in plain PyTorch: the definition that kernels are tested against."""

import torch
import torch.nn.functional as F
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
    dtype = accumulate_dtype(x.dtype)
    normed = F.layer_norm(h.to(dtype), D.shape, weight.to(dtype), bias.to(dtype), eps)
    return torch.addcmul(x.to(dtype) * D.to(dtype), normed, C.to(dtype).unsqueeze(-1)).to(x.dtype)
