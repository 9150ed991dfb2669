"""The MLP of a transformer's block, two linear layers with GELU between them, computed in one pass."""

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import require_same_device, require_shapes
from ssm_core.ops.registry import has_kernel

from . import register as _register  # noqa: F401  registers the operators' rules
from .reference import mlp_reference

_NAME = "ssm_core::mlp"
_HALF_TYPES = (torch.bfloat16, torch.float16)
# As in csrc/mlp/cuda/tuning.h: the numbers of channels that kernels are compiled for, and what divides the hidden ones.
CHANNELS = (48, 64, 80, 96, 128, 160, 192)
# As in csrc/mlp/cuda/hopper.h: those that Hopper GPUs have besides, without gradients.
WIDE_CHANNELS = (256, 320, 384)
CHUNK = 32


def mlp(
    x: Tensor,  # [..., C]
    weight1: Tensor,  # [H, C]
    bias1: Tensor,  # [H]
    weight2: Tensor,  # [C, H]
    bias2: Tensor,  # [C]
    backend: Backend = "auto",
) -> Tensor:  # [..., C]
    """Compute y = W₂ GELU(W₁ x + b₁) + b₂ for every token.

    The kernel keeps the hidden channels in registers, forward and backward, where two layers write and read them in
    memory. It is for GPUs from compute capability 8.0 on, half types and the widths of ``CHANNELS``. On GPUs of 9.0 the
    forward pass is a kernel of its own, which has the widths of ``WIDE_CHANNELS``, too, if no input needs a gradient.
    Everything else is computed by PyTorch's layers.

    Args:
        x: the tokens.
        weight1: the first layer's weight, in the dtype of ``x``.
        bias1: the first layer's bias.
        weight2: the second layer's weight, in the dtype of ``x``.
        bias2: the second layer's bias.
        backend: the implementation; ``"auto"`` takes the kernel where there is one, and PyTorch's layers elsewhere.

    Returns:
        The tokens' results, in the dtype of ``x``. The kernel computes in float32 what lies between the products, and
        rounds GELU's result.

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message says which.
    """
    require_same_device("mlp", x=x, weight1=weight1, bias1=bias1, weight2=weight2, bias2=bias2)
    rows = x.reshape(-1, x.shape[-1]) if x.dim() else x
    require_shapes(
        "mlp", x=(rows, "TC"), weight1=(weight1, "HC"), bias1=(bias1, "H"), weight2=(weight2, "CH"), bias2=(bias2, "C")
    )
    if weight1.dtype != x.dtype or weight2.dtype != x.dtype:
        raise ValueError(
            f"mlp: x, weight1 and weight2 must have one dtype, got {x.dtype}, {weight1.dtype} and {weight2.dtype}"
        )
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight1, bias1, weight2, bias2))
    fits = has_mlp_kernel(x, weight1, differentiable)
    if backend == "auto" and not fits:
        return mlp_reference(x, weight1, bias1, weight2, bias2)
    if choose_backend("mlp", _NAME, backend, x.device) == "reference":
        return mlp_reference(x, weight1, bias1, weight2, bias2)
    if not fits:
        raise ValueError(
            f"mlp: the kernel takes half types, {_names(CHANNELS)} channels and multiples of {CHUNK} hidden ones on "
            f"GPUs from compute capability 8.0 on, and without gradients {_names(WIDE_CHANNELS)} channels on those of "
            f"9.0, got {x.dtype}, {weight1.shape[1]} channels and {weight1.shape[0]} hidden ones on {x.device}"
        )
    parameters = weight1.contiguous(), bias1.float().contiguous(), weight2.contiguous(), bias2.float().contiguous()
    y: Tensor = torch.ops.ssm_core.mlp(rows.contiguous(), *parameters)
    return y.view(x.shape)


def _names(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def has_mlp_kernel(x: Tensor, weight1: Tensor, differentiable: bool = True) -> bool:
    """Whether the compiled library has a kernel for tokens of this dtype, device and width.

    Args:
        x: the tokens ``[..., C]``.
        weight1: the first layer's weight ``[H, C]``.
        differentiable: whether gradients are needed, which has kernels for fewer widths.
    """
    hidden, channels = weight1.shape
    if not x.is_cuda or x.dtype not in _HALF_TYPES or not has_kernel(_NAME, "cuda"):
        return False
    return _fits(channels, hidden, x.device, differentiable)


# torch.compile calls this once while it traces.
@torch.compiler.assume_constant_result
def _fits(channels: int, hidden: int, device: torch.device, differentiable: bool) -> bool:
    index = torch.cuda.current_device() if device.index is None else device.index
    given = channels, hidden, index
    both_ways = bool(torch.ops.ssm_build.mlp_fits(*given))
    return both_ways or (not differentiable and bool(torch.ops.ssm_build.mlp_infers(*given)))


__all__ = ["has_mlp_kernel", "mlp", "mlp_reference"]
