"""The depthwise convolution with SiLU by PyTorch's own functions, and its results with every gradient under a name."""

import torch
import torch.nn.functional as F
from oracles.gradients import with_gradients

from ssm_core.ops import depthwise_conv

NAMES = ("y", "grad_x", "grad_weight", "grad_bias")


def inputs(shape, dtype=torch.float64, with_bias=True):
    """Return x, weight and bias. The parameters of half types are float32."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, weight = torch.randn(shape, dtype=torch.float64), torch.randn(shape[-1], 3, 3, dtype=torch.float64) / 2
    parameters = [weight.to(wide), torch.randn(shape[-1], dtype=wide)]
    return [x.to(dtype), *parameters[: 1 + with_bias]]


def of_pytorch(x, weight, bias=None):
    """Compute the same by PyTorch's convolution and its SiLU."""
    p = F.conv2d(x.permute(0, 3, 1, 2), weight.unsqueeze(1), bias, padding=1, groups=x.shape[-1])
    return F.silu(p).permute(0, 2, 3, 1)


def results(function, leaves, device="cpu", seed=1):
    """Return the result of a function and every gradient by name. The gradient of the result is random."""
    generator = torch.Generator().manual_seed(seed)
    upstream = torch.randn(leaves[0].shape, dtype=torch.float64, generator=generator)
    found = with_gradients(function, [v.to(device) for v in leaves], upstream.to(device, leaves[0].dtype))
    return dict(zip(NAMES, found, strict=False))


def conv_and_gradients(leaves, backend="auto", device="cpu"):
    """Return the operator's result and every gradient by name."""

    def function(*given):
        return depthwise_conv(*given, backend=backend)

    return results(function, leaves, device)


def exact(leaves, device="cpu"):
    """Return the same by PyTorch's own functions in float64."""
    return results(of_pytorch, [v.double() for v in leaves], device)
