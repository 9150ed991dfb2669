"""Declares ``tree_ssm::state_readout`` and registers its fake, autograd and autocast rules.

The schemas are in ``csrc/state_readout/schema.cpp``.
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

from .derivatives import readout_backward_composite, readout_composite

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(h: Tensor, x: Tensor, C: Tensor, D: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    require_shapes(
        "state_readout",
        x=(x, "BLD"),
        h=(h, "BLD"),
        C=(C, "BL"),
        D=(D, "D"),
        weight=(weight, "D"),
        bias=(bias, "D"),
    )
    return torch.empty_like(x)


def _fake_backward(
    grad_y: Tensor, h: Tensor, x: Tensor, C: Tensor, D: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, ...]:
    y = _fake(h, x, C, D, weight, bias, eps)
    require_shapes("state_readout", y=(y, "BLD"), grad_y=(grad_y, "BLD"))
    return torch.empty_like(h), torch.empty_like(x), C.new_empty(C.shape), *(torch.empty_like(D) for _ in range(3))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    # The backward pass reads h in any case, so it computes mean and deviation again instead of keeping them.
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 7
    return *torch.ops.tree_ssm.state_readout_backward(grad_y, *ctx.saved_tensors, ctx.eps), None


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    if any(dim is not None for dim in in_dims[3:6]):  # D, weight or bias, which a batch shares
        return loop_rule(torch.ops.tree_ssm.state_readout)(info, in_dims, *args)
    folded = (fold(x, dim, info.batch_size, 0).contiguous() for x, dim in zip(args[:3], in_dims, strict=False))
    return unfold(torch.ops.tree_ssm.state_readout(*folded, *args[3:]), info.batch_size, 0)


def _flops(h_shape: Shape, *_: Any, out_shape: Any = None) -> int:
    """The layer norm, counted as ``ssm_core.flops`` counts PyTorch's: five operations an element, doubled."""
    return 2 * 5 * math.prod(h_shape)


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_NAME = "tree_ssm::state_readout"

_OPERATOR = Operator(_NAME, needs=(f"{_NAME}_backward",), flops={_NAME: _flops}, onnx=_onnx, examples=_examples)

if register(_OPERATOR):
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(f"{_NAME}_backward", _fake_backward)
    jvp = composite_jvp(readout_composite, outputs=1)
    register_derivatives(_library, _NAME, setup_context=_setup_context, backward=_backward, jvp=jvp)
    register_composite_derivatives(_library, f"{_NAME}_backward", readout_backward_composite)
    register_rule(_NAME, _vmap)
    register_composite_vmap(_library, f"{_NAME}_backward", readout_backward_composite, outputs=6)
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast changes nothing: the kernel reads and writes half types and computes in float32.
        _library.impl("state_readout", torch.library.fallthrough_kernel, key)
