"""The stem's first half by PyTorch's layers: the definition that the kernel is tested against."""

import torch.nn.functional as F
from torch import Tensor


def conv_norm_gelu_reference(
    images: Tensor,  # [B, 3, H, W]
    weight: Tensor,  # [C, 3, 3, 3]
    bias: Tensor,  # [C]
    norm_weight: Tensor,  # [C]
    norm_bias: Tensor,  # [C]
    eps: float,
) -> Tensor:  # [B, ⌈H/2⌉, ⌈W/2⌉, C]
    """Compute GELU(LN(conv(images))). Every layer rounds its result to the type of ``weight``."""
    dtype = weight.dtype
    x = F.conv2d(images.to(dtype), weight, bias.to(dtype), stride=2, padding=1).permute(0, 2, 3, 1)
    return F.gelu(F.layer_norm(x, x.shape[-1:], norm_weight.to(dtype), norm_bias.to(dtype), eps))
