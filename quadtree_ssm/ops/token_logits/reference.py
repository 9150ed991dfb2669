"""The token logits by PyTorch's layers: the definition that the kernel is tested against."""

import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype


def token_logits_reference(
    x: Tensor,  # [T, D]
    gamma: Tensor,  # [D]
    beta: Tensor,  # [D]
    weight1: Tensor,  # [D, D]
    bias1: Tensor,  # [D]
    weight2: Tensor,  # [D/2, D]
    bias2: Tensor,  # [D/2]
    weight3: Tensor,  # [D/4, D/2]
    bias3: Tensor,  # [D/4]
    weight4: Tensor,  # [D/4]
    bias4: Tensor,  # []
    eps: float,
) -> Tensor:  # [T]
    """Compute w₄ · g(W₃ g(W₂ g(W₁ LN(x) + b₁) + b₂) + b₃) + b₄ with g = GELU, in float32 or float64."""
    wide, dtype = accumulate_dtype(x.dtype), x.dtype
    h = F.layer_norm(x.to(wide), x.shape[-1:], gamma.to(wide), beta.to(wide), eps).to(dtype)
    for weight, bias in ((weight1, bias1), (weight2, bias2), (weight3, bias3)):
        h = F.gelu(F.linear(h, weight, bias.to(dtype)))
    return h.to(wide) @ weight4.to(wide) + bias4.to(wide)
