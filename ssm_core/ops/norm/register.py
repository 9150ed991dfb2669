"""Declares ``ssm_core::norm``, ``gated_norm`` and ``residual_norm``; registers their fake, autograd and autocast rules.

The schemas are in ``csrc/norm/schema.cpp``.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype, require_shapes
from ssm_core.ops.derivatives import composite_jvp, register_composite_derivatives, register_derivatives
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Table, register
from ssm_core.ops.vmap import fold, loop_rule, register_composite_vmap, register_rule, unfold

from .derivatives import (
    gated_norm_backward_composite,
    gated_norm_composite,
    norm_backward_composite,
    norm_composite,
    residual_norm_backward_composite,
    residual_norm_composite,
)
from .reference import scaled

_library = torch.library.Library("ssm_core", "IMPL")


def _map(like: Tensor, dtype: torch.dtype) -> Tensor:
    return like.new_empty(like.shape, dtype=dtype)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool, dtype: torch.dtype) -> Tensor:
    require_shapes("norm", x=(x, "BLC"), weight=(weight, "C"), bias=(bias, "C"))
    return _map(x, dtype)


def _fake_backward(
    grad_y: Tensor, grad_more: Tensor | None, x: Tensor, weight: Tensor, eps: float, centred: bool
) -> tuple[Tensor, ...]:
    require_shapes("norm", x=(x, "BLC"), grad_y=(grad_y, "BLC"), grad_more=(grad_more, "BLC"), weight=(weight, "C"))
    return _map(x, x.dtype), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _fake_gated(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
    require_shapes("gated_norm", x=(x, "BLC"), gate=(gate, "BLC"), weight=(weight, "C"), bias=(bias, "C"))
    return _map(x, x.dtype)


def _fake_gated_backward(
    grad_y: Tensor, x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
) -> tuple[Tensor, ...]:
    require_shapes(
        "gated_norm",
        x=(x, "BLC"),
        gate=(gate, "BLC"),
        grad_y=(grad_y, "BLC"),
        weight=(weight, "C"),
        bias=(bias, "C"),
    )
    return _map(x, x.dtype), _map(x, gate.dtype), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _fake_residual(
    x: Tensor,
    residual: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    require_shapes(
        "residual_norm",
        x=(x, "BLC"),
        residual=(residual, "BLC"),
        scale=(scale, "B"),
        weight=(weight, "C"),
        bias=(bias, "C"),
    )
    return _map(x, dtype), _map(x, residual.dtype)


def _fake_residual_backward(
    grad_y: Tensor,
    grad_stream: Tensor | None,
    stream: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    require_shapes(
        "residual_norm",
        stream=(stream, "BLC"),
        grad_y=(grad_y, "BLC"),
        grad_stream=(grad_stream, "BLC"),
        scale=(scale, "B"),
        weight=(weight, "C"),
    )
    parameters = (weight.new_empty(weight.shape) for _ in range(2))
    return _map(stream, dtype), _map(stream, stream.dtype), *parameters


# The backward passes read the normed map in any case, so they compute mean and deviation again. Keeping both would cost
# eight bytes a row each way.
def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.eps, ctx.centred, _ = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 6
    x, weight = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = torch.ops.ssm_core.norm_backward(grad_y, None, x, weight, ctx.eps, ctx.centred)
    return grad_x, grad_weight, grad_bias if ctx.has_bias else None, None, None, None


def _setup_gated(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, gate, weight, bias, ctx.eps, ctx.centred = inputs
    ctx.save_for_backward(x, gate, weight, bias)


def _backward_gated(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 6
    x, gate, weight, bias = ctx.saved_tensors
    grad_x, grad_gate, grad_weight, grad_bias = torch.ops.ssm_core.gated_norm_backward(
        grad_y, x, gate, weight, bias, ctx.eps, ctx.centred
    )
    return grad_x, grad_gate, grad_weight, None if bias is None else grad_bias, None, None


def _setup_residual(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, scale, weight, bias, ctx.eps, ctx.centred, _ = inputs
    ctx.has_bias, ctx.dtype = bias is not None, x.dtype
    # Only the gradient of the scale needs x. Drop path, which draws the scale, has none.
    of_scale = scale is not None and scale.requires_grad
    ctx.save_for_backward(output[1], scale, weight, x if of_scale else None)


def _backward_residual(ctx: Any, grad_y: Tensor | None, grad_stream: Tensor | None) -> tuple[Tensor | None, ...]:
    stream, scale, weight, x = ctx.saved_tensors
    grad_weight = grad_bias = grad_x = grad_residual = None
    if grad_y is None:
        if grad_stream is None:
            return (None,) * 8
        grad_residual = grad_stream
        grad_x = scaled(grad_stream.to(accumulate_dtype(grad_stream.dtype)), scale).to(ctx.dtype)
    elif scale is None and ctx.dtype == stream.dtype:
        # Both summands have one gradient, which is written once.
        grad_x, grad_weight, grad_bias = torch.ops.ssm_core.norm_backward(
            grad_y, grad_stream, stream, weight, ctx.eps, ctx.centred
        )
        grad_residual = grad_x
    else:
        grad_x, grad_residual, grad_weight, grad_bias = torch.ops.ssm_core.residual_norm_backward(
            grad_y, grad_stream, stream, scale, weight, ctx.eps, ctx.centred, ctx.dtype
        )
    grad_scale = None
    if x is not None:
        wide = accumulate_dtype(x.dtype)
        grad_scale = (grad_residual.to(wide) * x.to(wide)).sum(tuple(range(1, x.dim())))
    return grad_x, grad_residual, grad_scale, grad_weight, grad_bias if ctx.has_bias else None, None, None, None


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    if any(dim is not None for dim in in_dims[1:3]):  # weight or bias, which a batch shares
        return loop_rule(torch.ops.ssm_core.norm)(info, in_dims, *args)
    x = fold(args[0], in_dims[0], info.batch_size, 0).contiguous()
    return unfold(torch.ops.ssm_core.norm(x, *args[1:]), info.batch_size, 0)


def _vmap_gated(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    if any(dim is not None for dim in in_dims[2:4]):
        return loop_rule(torch.ops.ssm_core.gated_norm)(info, in_dims, *args)
    maps = [fold(x, dim, info.batch_size, 0).contiguous() for x, dim in zip(args[:2], in_dims, strict=False)]
    return unfold(torch.ops.ssm_core.gated_norm(*maps, *args[2:]), info.batch_size, 0)


def _vmap_residual(
    info: Any, in_dims: tuple[int | None, ...], *args: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    if any(dim is not None for dim in in_dims[3:5]):
        return loop_rule(torch.ops.ssm_core.residual_norm)(info, in_dims, *args)
    folded = (fold(x, dim, info.batch_size, 0) for x, dim in zip(args[:3], in_dims, strict=False))
    given = [None if x is None else x.contiguous() for x in folded]
    results = torch.ops.ssm_core.residual_norm(*given, *args[3:])
    unfolded = [unfold(y, info.batch_size, 0) for y in results]
    return tuple(y for y, _ in unfolded), tuple(dim for _, dim in unfolded)


def _flops(x_shape: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """A norm as ``ssm_core.flops`` counts PyTorch's: five operations an element, doubled. Gates are not counted."""
    return 2 * 5 * math.prod(x_shape)


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_NAME, _GATED, _RESIDUAL = "ssm_core::norm", "ssm_core::gated_norm", "ssm_core::residual_norm"

_OPERATOR = Operator(
    _NAME,
    needs=(f"{_NAME}_backward", _GATED, f"{_GATED}_backward", _RESIDUAL, f"{_RESIDUAL}_backward"),
    flops={_NAME: _flops, _GATED: _flops, _RESIDUAL: _flops},
    onnx=_onnx,
    examples=_examples,
)

if register(_OPERATOR):
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(f"{_NAME}_backward", _fake_backward)
    torch.library.register_fake(_GATED, _fake_gated)
    torch.library.register_fake(f"{_GATED}_backward", _fake_gated_backward)
    torch.library.register_fake(_RESIDUAL, _fake_residual)
    torch.library.register_fake(f"{_RESIDUAL}_backward", _fake_residual_backward)
    register_derivatives(
        _library,
        _NAME,
        setup_context=_setup_context,
        backward=_backward,
        jvp=composite_jvp(norm_composite, outputs=1),
    )
    register_derivatives(
        _library,
        _GATED,
        setup_context=_setup_gated,
        backward=_backward_gated,
        jvp=composite_jvp(gated_norm_composite, outputs=1),
    )
    register_derivatives(
        _library,
        _RESIDUAL,
        setup_context=_setup_residual,
        backward=_backward_residual,
        jvp=composite_jvp(residual_norm_composite, outputs=2),
    )
    register_composite_derivatives(_library, f"{_NAME}_backward", norm_backward_composite)
    register_composite_derivatives(_library, f"{_GATED}_backward", gated_norm_backward_composite)
    register_composite_derivatives(_library, f"{_RESIDUAL}_backward", residual_norm_backward_composite)
    register_rule(_NAME, _vmap)
    register_rule(_GATED, _vmap_gated)
    register_rule(_RESIDUAL, _vmap_residual)
    register_composite_vmap(_library, f"{_NAME}_backward", norm_backward_composite, outputs=3)
    register_composite_vmap(_library, f"{_GATED}_backward", gated_norm_backward_composite, outputs=4)
    register_composite_vmap(_library, f"{_RESIDUAL}_backward", residual_norm_backward_composite, outputs=4)
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast changes nothing: the kernels read and write the types that they are given and compute in float32.
        for name in ("norm", "gated_norm", "residual_norm"):
            _library.impl(name, torch.library.fallthrough_kernel, key)
