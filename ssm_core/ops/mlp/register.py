"""Declares ``ssm_core::mlp`` and registers its fake, autograd, vmap and autocast rules.

The schemas are in ``csrc/mlp/schema.cpp``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import require_shapes
from ssm_core.ops.derivatives import composite_jvp, register_composite_derivatives, register_derivatives
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Table, register
from ssm_core.ops.vmap import fold, loop_rule, register_composite_vmap, register_rule, unfold

from .derivatives import mlp_backward_composite, mlp_composite

_library = torch.library.Library("ssm_core", "IMPL")


def _fake(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    require_shapes(
        "mlp", x=(x, "TC"), weight1=(weight1, "HC"), bias1=(bias1, "H"), weight2=(weight2, "CH"), bias2=(bias2, "C")
    )
    return x.new_empty(x.shape)


def _fake_backward(
    grad_y: Tensor, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    require_shapes(
        "mlp", x=(x, "TC"), grad_y=(grad_y, "TC"), weight1=(weight1, "HC"), bias1=(bias1, "H"), weight2=(weight2, "CH")
    )
    hidden = (x.shape[0], weight1.shape[0])
    return x.new_empty(x.shape), x.new_empty(hidden), x.new_empty(hidden), bias1.new_empty(bias1.shape)


# The backward pass computes the hidden channels again, so that x alone is kept of a token.
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 5
    x, weight1, bias1, weight2 = ctx.saved_tensors
    grad_x, h, grad_u, grad_bias1 = torch.ops.ssm_core.mlp_backward(grad_y, x, weight1, bias1, weight2)
    return grad_x, grad_u.mT @ x, grad_bias1, grad_y.mT @ h, grad_y.sum(0, dtype=bias1.dtype)


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    if any(dim is not None for dim in in_dims[1:]):  # parameters, which a batch shares
        return loop_rule(torch.ops.ssm_core.mlp)(info, in_dims, *args)
    x = fold(args[0], in_dims[0], info.batch_size, 0).contiguous()
    return unfold(torch.ops.ssm_core.mlp(x, *args[1:]), info.batch_size, 0)


def _flops(x_shape: Shape, weight1_shape: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Two products, as PyTorch's layers have. GELU is elementwise and does not count."""
    return 4 * x_shape[0] * x_shape[1] * weight1_shape[0]


def _flops_backward(
    grad_y_shape: Shape, x_shape: Shape, weight1_shape: Shape, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    """The gradients of both layers' inputs. Computing the hidden channels again is no work of the network."""
    return _flops(x_shape, weight1_shape)


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_NAME = "ssm_core::mlp"
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
        jvp=composite_jvp(mlp_composite, outputs=1),
    )
    register_composite_derivatives(_library, _BACKWARD, mlp_backward_composite)
    register_rule(_NAME, _vmap)
    register_composite_vmap(_library, _BACKWARD, mlp_backward_composite, outputs=4)
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast changes nothing: the kernel reads and writes the type that it is given.
        _library.impl("mlp", torch.library.fallthrough_kernel, key)
