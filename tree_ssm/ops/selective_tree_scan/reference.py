"""Source and weight of the selective tree scan in plain PyTorch.

With the tree scan's reference they are the definition that kernels are tested against.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype


def source_and_weight(
    x: Tensor,  # [B, L, D]
    delta: Tensor,  # [B, L, D]
    A: Tensor,  # [D]
    B: Tensor,  # [B, L]
    delta_bias: Tensor,  # [D]
) -> tuple[Tensor, Tensor]:
    """Compute Δ·B·x and exp(Δ·A) with Δ = softplus(delta + delta_bias), both ``[B, L, D]`` in float32 or float64."""
    dtype = accumulate_dtype(x.dtype)
    step = F.softplus(delta.to(dtype) + delta_bias)
    return step * x.to(dtype) * B.to(dtype).unsqueeze(-1), torch.exp(step * A)
