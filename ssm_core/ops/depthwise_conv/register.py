"""Declares ``ssm_core::depthwise_conv`` and registers its fake, autograd, vmap and autocast rules.

The schemas are in ``csrc/depthwise_conv/schema.cpp``.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import require_shapes
from ssm_core.ops.derivatives import composite_jvp, register_composite_derivatives, register_derivatives
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Table, register
from ssm_core.ops.vmap import fold, loop_rule, register_composite_vmap, register_rule, unfold

from .derivatives import (
    depthwise_conv_backward_composite,
    depthwise_conv_composite,
    depthwise_conv_sum_backward_composite,
    sum_of_gradients,
)
from .reference import SIDE

_library = torch.library.Library("ssm_core", "IMPL")


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, **more: tuple[Tensor, str]) -> None:
    require_shapes("depthwise_conv", x=(x, "BHWC"), **more, weight=(weight, "CIJ"), bias=(bias, "C"))
    if weight.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"depthwise_conv: weight must be [C, {SIDE}, {SIDE}], got {tuple(weight.shape)}")


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    _check(x, weight, bias)
    return x.new_empty(x.shape)


def _fake_backward(grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    _check(x, weight, bias, grad_y=(grad_y, "BHWC"))
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:1])


def _fake_sum_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, second: Tensor | None, third: Tensor | None
) -> tuple[Tensor, ...]:
    _check_gradients(grad_y, x, second, third)
    return _fake_backward(grad_y, x, weight, bias)


def _check_gradients(grad_y: Tensor, x: Tensor, second: Tensor | None, third: Tensor | None) -> None:
    for name, grad in (("grad_y", grad_y), ("second", second), ("third", third)):
        if grad is not None and (grad.shape != x.shape or grad.dtype != x.dtype):
            raise ValueError(
                f"depthwise_conv: {name} must be {x.dtype} {tuple(x.shape)}, as x is, "
                f"got {grad.dtype} {tuple(grad.shape)}"
            )


def _sum_backward_on_cpu(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, second: Tensor | None, third: Tensor | None
) -> tuple[Tensor, ...]:
    _check_gradients(grad_y, x, second, third)  # additions would broadcast and convert
    total = sum_of_gradients(grad_y, second, third)
    gradients: tuple[Tensor, ...] = torch.ops.ssm_core.depthwise_conv_backward(total, x, weight, bias)
    return gradients


# The backward pass computes the map before SiLU again, from x, which it reads in any case.
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return None, None, None
    x, weight, bias = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = torch.ops.ssm_core.depthwise_conv_backward(grad_y, x, weight, bias)
    return grad_x, grad_weight, None if bias is None else grad_bias


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    if any(dim is not None for dim in in_dims[1:]):  # parameters, which a batch shares
        return loop_rule(torch.ops.ssm_core.depthwise_conv)(info, in_dims, *args)
    x = fold(args[0], in_dims[0], info.batch_size, 0).contiguous()
    return unfold(torch.ops.ssm_core.depthwise_conv(x, *args[1:]), info.batch_size, 0)


def _flops(x_shape: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Nine multiply-adds an element, as PyTorch's convolution has. SiLU is elementwise and does not count."""
    return 2 * SIDE * SIDE * math.prod(x_shape)


def _flops_backward(grad_y_shape: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """The gradients of the map and of the weight take as much as the convolution each."""
    return 2 * _flops(grad_y_shape)


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_NAME = "ssm_core::depthwise_conv"
_BACKWARD = f"{_NAME}_backward"
_SUM_BACKWARD = f"{_NAME}_sum_backward"

_OPERATOR = Operator(
    _NAME,
    needs=(_BACKWARD, _SUM_BACKWARD),
    flops={_NAME: _flops, _BACKWARD: _flops_backward, _SUM_BACKWARD: _flops_backward},
    onnx=_onnx,
    examples=_examples,
)

if register(_OPERATOR):
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(_BACKWARD, _fake_backward)
    torch.library.register_fake(_SUM_BACKWARD, _fake_sum_backward)
    _library.impl("depthwise_conv_sum_backward", _sum_backward_on_cpu, "CPU")
    register_derivatives(
        _library,
        _NAME,
        setup_context=_setup_context,
        backward=_backward,
        jvp=composite_jvp(depthwise_conv_composite, outputs=1),
    )
    register_composite_derivatives(_library, _BACKWARD, depthwise_conv_backward_composite)
    register_composite_derivatives(_library, _SUM_BACKWARD, depthwise_conv_sum_backward_composite)
    register_rule(_NAME, _vmap)
    register_composite_vmap(_library, _BACKWARD, depthwise_conv_backward_composite, outputs=3)
    register_composite_vmap(_library, _SUM_BACKWARD, depthwise_conv_sum_backward_composite, outputs=3)
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast changes nothing: the kernels read and write the types that they are given and compute in float32.
        _library.impl("depthwise_conv", torch.library.fallthrough_kernel, key)
