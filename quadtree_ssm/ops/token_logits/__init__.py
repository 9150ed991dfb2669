"""The logits of QuadMamba's score predictor, a norm and four layers, computed in one pass."""

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import require_same_device
from ssm_core.ops.registry import has_kernel

from .reference import token_logits_reference
from .register import check_shapes  # registers the operator's rules, too

_NAME = "quadtree_ssm::token_logits"
_HALF_TYPES = (torch.bfloat16, torch.float16)
CHANNELS = (64, 96, 128, 192, 384)  # for which a kernel is compiled, as in csrc/token_logits/cuda/launch.h


def token_logits(
    x: Tensor,  # [..., D]
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
    eps: float = 1e-5,
    backend: Backend = "auto",
) -> Tensor:  # [...]
    """Compute w₄ · g(W₃ g(W₂ g(W₁ LN(x) + b₁) + b₂) + b₃) + b₄ for every token, with g = GELU.

    This is the score predictor of QuadMamba (section 3.2), before the logarithm of the sigmoid. The kernel keeps all
    hidden channels in registers, where layers write and read them in memory. It is for GPUs from compute capability 8.0
    on, half types and the widths of ``CHANNELS``, as far as the GPU's shared memory holds the weights. Everything else
    is computed by PyTorch's layers, and so are all derivatives.

    Args:
        x: the tokens.
        gamma: scale of the layer norm.
        beta: shift of the layer norm.
        weight1: the first layer's weight, in the dtype of ``x``.
        bias1: the first layer's bias.
        weight2: the second layer's weight, in the dtype of ``x``.
        bias2: the second layer's bias.
        weight3: the third layer's weight, in the dtype of ``x``.
        bias3: the third layer's bias.
        weight4: the last layer's weight.
        bias4: the last layer's bias.
        eps: added to the variance.
        backend: the implementation; ``"auto"`` takes the kernel where there is one.

    Returns:
        The logits, in float32 or float64. The results of the norm and of GELU are rounded to the dtype of ``x`` where a
        product reads them.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    op = "token_logits"
    rows = x.reshape(-1, x.shape[-1]) if x.dim() else x
    parameters = (gamma, beta, weight1, bias1, weight2, bias2, weight3, bias3, weight4, bias4)
    check_shapes(rows, *parameters)
    names = ("gamma", "beta", "weight1", "bias1", "weight2", "bias2", "weight3", "bias3", "weight4", "bias4")
    require_same_device(op, x=x, **dict(zip(names, parameters, strict=True)))
    if any(weight.dtype != x.dtype for weight in (weight1, weight2, weight3)):
        raise ValueError(
            f"{op}: x, weight1, weight2 and weight3 must have one dtype, got {x.dtype}, {weight1.dtype}, "
            f"{weight2.dtype} and {weight3.dtype}"
        )
    channels = weight1.shape[1]  # a number for torch.compile, too, when it leaves the sizes of x open
    halved = (2 * weight2.shape[0], 4 * weight3.shape[0]) == (channels, channels)
    fits = halved and has_token_logits_kernel(channels, x.dtype, x.device)
    if (backend == "auto" and not fits) or choose_backend(op, _NAME, backend, x.device) == "reference":
        return token_logits_reference(rows, *parameters, eps).view(x.shape[:-1])
    if not fits:
        raise ValueError(
            f"{op}: the kernel takes half types and {', '.join(map(str, CHANNELS))} channels, which are halved twice, "
            f"on GPUs from compute capability 8.0 on, got {x.dtype} and {channels} channels on {x.device}"
        )
    gamma, beta, bias1, bias2, bias3, weight4, bias4 = (
        value.float().contiguous() for value in (gamma, beta, bias1, bias2, bias3, weight4, bias4)
    )
    weight1, weight2, weight3 = (weight.contiguous() for weight in (weight1, weight2, weight3))
    logits: Tensor = torch.ops.quadtree_ssm.token_logits(
        rows.contiguous(), gamma, beta, eps, weight1, bias1, weight2, bias2, weight3, bias3, weight4, bias4
    )
    return logits.view(x.shape[:-1])


def has_token_logits_kernel(channels: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the compiled library has a kernel for tokens of this width, dtype and device."""
    if device.type != "cuda" or dtype not in _HALF_TYPES or not has_kernel(_NAME, "cuda"):
        return False
    return _fits(channels, device)


# torch.compile calls this once while it traces.
@torch.compiler.assume_constant_result
def _fits(channels: int, device: torch.device) -> bool:
    index = torch.cuda.current_device() if device.index is None else device.index
    return bool(torch.ops.ssm_build.token_logits_fits(channels, index))


__all__ = ["has_token_logits_kernel", "token_logits", "token_logits_reference"]
