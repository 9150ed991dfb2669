"""The MLP by PyTorch's layers: the definition that the kernel is tested against, and what computes it elsewhere."""

import torch.nn.functional as F
from torch import Tensor


def mlp_reference(
    x: Tensor,  # [..., C]
    weight1: Tensor,  # [H, C]
    bias1: Tensor,  # [H]
    weight2: Tensor,  # [C, H]
    bias2: Tensor,  # [C]
) -> Tensor:  # [..., C]
    """Compute W₂ GELU(W₁ x + b₁) + b₂. Every layer rounds its result to the type of ``x``."""
    h = F.gelu(F.linear(x, weight1, bias1.to(x.dtype)))
    return F.linear(h, weight2, bias2.to(x.dtype))
