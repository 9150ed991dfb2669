"""Declares ``ssm_core::conv_norm_gelu`` and registers its fake, autograd, vmap and autocast rules.

The schemas are in ``csrc/conv_norm_gelu/schema.cpp``.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import require_shapes
from ssm_core.ops.derivatives import composite_jvp, composite_vjp, register_composite_derivatives, register_derivatives
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Table, register
from ssm_core.ops.vmap import fold, loop_rule, register_composite_vmap, register_rule, unfold

from .derivatives import conv_norm_gelu_backward_composite, conv_norm_gelu_composite

_library = torch.library.Library("ssm_core", "IMPL")


def require_stem_shapes(
    images: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, grad_y: Tensor | None = None
) -> tuple[int, int, int, int]:
    """Raise ``ValueError`` for the first tensor whose shape does not fit. Return the shape of the result."""
    require_shapes(
        "conv_norm_gelu",
        images=(images, "BKHW"),
        weight=(weight, "CKIJ"),
        bias=(bias, "C"),
        norm_weight=(norm_weight, "C"),
        norm_bias=(norm_bias, "C"),
    )
    if tuple(weight.shape[1:]) != (3, 3, 3):
        raise ValueError(f"conv_norm_gelu: weight must be [C, 3, 3, 3], got {tuple(weight.shape)}")
    batch, _, height, width = images.shape
    shape = batch, (height + 1) // 2, (width + 1) // 2, weight.shape[0]
    if grad_y is not None and tuple(grad_y.shape) != shape:
        raise ValueError(f"conv_norm_gelu: grad_y must be {shape}, got {tuple(grad_y.shape)}")
    return shape


def _fake(images: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float) -> Tensor:
    return weight.new_empty(require_stem_shapes(images, weight, bias, norm_weight, norm_bias))


def _fake_backward(
    grad_y: Tensor, images: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    require_stem_shapes(images, weight, bias, norm_weight, norm_bias, grad_y)
    of_channels = [bias.new_empty(bias.shape) for _ in range(3)]
    return bias.new_empty(weight.shape), of_channels[0], of_channels[1], of_channels[2]


# The backward pass computes the convolution again, so that nothing is kept but the inputs.
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.eps = inputs[5]


def _backward(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 6
    inputs = (*ctx.saved_tensors, ctx.eps)
    grad_images, grad_weight, *others = (None,) * 5
    if any(ctx.needs_input_grad[1:5]):
        grad_weight, *others = torch.ops.ssm_core.conv_norm_gelu_backward(grad_y, *inputs)
        grad_weight = grad_weight.to(inputs[1].dtype)
    if ctx.needs_input_grad[0]:  # which no training step asks for, so that no kernel has it
        grad_images = composite_vjp(conv_norm_gelu_composite, inputs, (True, *(False,) * 5), (grad_y,))[0]
    return grad_images, grad_weight, *others, None


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    if any(dim is not None for dim in in_dims[1:]):  # parameters, which a batch shares
        return loop_rule(torch.ops.ssm_core.conv_norm_gelu)(info, in_dims, *args)
    images = fold(args[0], in_dims[0], info.batch_size, 0).contiguous()
    return unfold(torch.ops.ssm_core.conv_norm_gelu(images, *args[1:]), info.batch_size, 0)


def _flops(images_shape: Shape, weight_shape: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """The convolution, as PyTorch's has it. Norm and GELU are elementwise and do not count."""
    pixels = images_shape[0] * ((images_shape[2] + 1) // 2) * ((images_shape[3] + 1) // 2)
    return 2 * pixels * math.prod(weight_shape)


def _flops_backward(
    grad_y_shape: Shape, images_shape: Shape, weight_shape: Shape, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    """The gradient of the weight. Computing the convolution again is no work of the network."""
    return _flops(images_shape, weight_shape)


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_NAME = "ssm_core::conv_norm_gelu"
_BACKWARD = f"{_NAME}_backward"

_OPERATOR = Operator(
    _NAME,
    needs=(_BACKWARD,),
    flops={_NAME: _flops, _BACKWARD: _flops_backward},
    onnx=_onnx,
    examples=_examples,
    device_types=("cuda",),
)

if register(_OPERATOR):
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(_BACKWARD, _fake_backward)
    register_derivatives(
        _library,
        _NAME,
        setup_context=_setup_context,
        backward=_backward,
        jvp=composite_jvp(conv_norm_gelu_composite, outputs=1),
    )
    register_composite_derivatives(_library, _BACKWARD, conv_norm_gelu_backward_composite)
    register_rule(_NAME, _vmap)
    register_composite_vmap(_library, _BACKWARD, conv_norm_gelu_backward_composite, outputs=4)
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast changes nothing: the kernel writes the type that the weight has.
        _library.impl("conv_norm_gelu", torch.library.fallthrough_kernel, key)
