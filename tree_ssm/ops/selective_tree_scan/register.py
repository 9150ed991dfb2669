"""Declares ``tree_ssm::selective_tree_scan`` and registers its fake, autograd and autocast rules.

The schemas are in ``csrc/selective_tree_scan/schema.cpp``. There is a kernel for GPUs alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import require_shapes
from ssm_core.ops.derivatives import composite_jvp, register_composite_derivatives, register_derivatives
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Work, register
from ssm_core.ops.vmap import register_composite_vmap
from tree_ssm.ops.tree_scan.register import backward_flops, forward_flops

from .derivatives import selective_tree_scan_backward_composite, selective_tree_scan_composite

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    schedule: Tensor,
    parent: Tensor | None = None,
    order: Tensor | None = None,
) -> Tensor:
    require_shapes(
        "selective_tree_scan",
        x=(x, "BLD"),
        delta=(delta, "BLD"),
        A=(A, "D"),
        B=(B, "BL"),
        delta_bias=(delta_bias, "D"),
    )
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_backward(
    grad_h: Tensor,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    schedule: Tensor,
    parent: Tensor | None = None,
    order: Tensor | None = None,
) -> tuple[Tensor, ...]:
    h = _fake(x, delta, A, B, delta_bias, schedule)
    require_shapes("selective_tree_scan", h=(h, "BLD"), grad_h=(grad_h, "BLD"))
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, delta, A, B, delta_bias))


def _setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_h: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_h is None:
        return (None,) * 8
    return *torch.ops.tree_ssm.selective_tree_scan_backward(grad_h, *ctx.saved_tensors), None, None, None


def _flops(x_shape: Shape, *_: Any, out_shape: Any = None) -> int:
    """Those of the tree scan within. Elementwise operations are not counted, here or for any other scan."""
    return forward_flops(x_shape, both=True)


def _flops_backward(grad_shape: Shape, *_: Any, out_shape: Any = None) -> int:
    """Those of the tree scan's backward pass."""
    return backward_flops(grad_shape, both=True)


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_NAME = "tree_ssm::selective_tree_scan"
_OPERATOR = Operator(
    _NAME,
    needs=(f"{_NAME}_backward", "tree_ssm::tree_schedule"),
    work=Work.SCAN,
    flops={_NAME: _flops, f"{_NAME}_backward": _flops_backward},
    examples=_examples,
    device_types=("cuda",),
)

if register(_OPERATOR):
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(f"{_NAME}_backward", _fake_backward)
    jvp = composite_jvp(selective_tree_scan_composite, outputs=1)
    register_derivatives(_library, _NAME, setup_context=_setup_context, backward=_backward, jvp=jvp)
    register_composite_derivatives(_library, f"{_NAME}_backward", selective_tree_scan_backward_composite)
    register_composite_vmap(_library, _NAME, selective_tree_scan_composite, outputs=1)
    register_composite_vmap(_library, f"{_NAME}_backward", selective_tree_scan_backward_composite, outputs=5)
    # Autocast casts nothing: the parameters keep their precision.
    _library.impl("selective_tree_scan", torch.library.fallthrough_kernel, "AutocastCUDA")
