"""Declares ``tree_ssm::tree_scan`` and registers its fake, autograd and autocast rules.

The schemas are in ``csrc/tree_scan/schema.cpp``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import require_shapes
from ssm_core.ops.derivatives import register_composite_derivatives, register_derivatives
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Table, Work, register
from ssm_core.ops.vmap import register_rule

from .batching import scan_rule, schedule_rule
from .derivatives import Passes, down_gradients, down_jvp, tree_scan_backward_composite, tree_scan_jvp

_library = torch.library.Library("tree_ssm", "IMPL")


def _piece_size(batch: int, length: int) -> int:
    """Vertices in each of the pieces that a GPU cuts a walk into, 0 if it stays whole; as in csrc/tree."""
    if length < 512 or batch * batch >= length:
        return 0
    size = 64
    while size * 512 < batch * length or size * 256 < length:
        size *= 2
    return size if size < length else 0


def _fake_schedule(parent: Tensor) -> Tensor:
    # As ScheduleLayout::words() in csrc/tree/cuda/schedule.h: the steps of a walk, and for a walk that is cut also
    # its spines and pieces.
    require_shapes("tree_schedule", parent=(parent, "BL"))
    batch, length = parent.shape
    size = _piece_size(batch, length)
    words = 4 * length + 4 + 4 * (3 * (length // size) + 2) if size else (2 * length + 3) // 4 * 4
    return parent.new_empty(batch, words, dtype=torch.int32)


def _fake(
    u: Tensor, weight: Tensor, parent: Tensor, order: Tensor, both: bool, schedule: Tensor | None = None
) -> Tensor:
    require_shapes("tree_scan", u=(u, "BLD"), weight=(weight, "BLD"), parent=(parent, "BL"), order=(order, "BL"))
    return torch.empty_like(u, memory_format=torch.contiguous_format)


def _fake_backward(
    grad_h: Tensor,
    u: Tensor,
    weight: Tensor,
    parent: Tensor,
    order: Tensor,
    both: bool,
    schedule: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    require_shapes("tree_scan", u=(u, "BLD"), grad_h=(grad_h, "BLD"))
    grad_u = _fake(u, weight, parent, order, both)
    return grad_u, torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    # Only inputs are kept: computing ξ and h again is cheaper than keeping them.
    *tensors, ctx.both, schedule = inputs
    ctx.save_for_backward(*tensors, schedule)


def _backward(ctx: Any, grad_h: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_h is None:
        return (None,) * 6
    *tensors, schedule = ctx.saved_tensors
    gradients = torch.ops.tree_ssm.tree_scan_backward(grad_h, *tensors, ctx.both, schedule)
    return *gradients, None, None, None, None


def _down(g: Tensor, weight: Tensor, parent: Tensor, order: Tensor, schedule: Tensor | None = None) -> Tensor:
    # The gradient of the pass up by its input. It does not depend on that input, so that anything can stand for it.
    down, _ = torch.ops.tree_ssm.tree_scan_backward(g, g, weight, parent, order, False, schedule)
    return down


def _fake_down(g: Tensor, weight: Tensor, parent: Tensor, order: Tensor, schedule: Tensor | None = None) -> Tensor:
    require_shapes("tree_scan", g=(g, "BLD"), weight=(weight, "BLD"), parent=(parent, "BL"), order=(order, "BL"))
    return torch.empty_like(g, memory_format=torch.contiguous_format)


def _setup_down(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs[1:])


def _backward_down(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    result, weight, *trees = ctx.saved_tensors
    if grad is None:
        return (None,) * 5
    return *down_gradients(grad, result, weight, Passes(*trees)), None, None, None


def forward_flops(shape: Shape, both: bool) -> int:
    """For each edge and channel one multiply-add up and two more down; a multiply-add is two FLOPs.

    Args:
        shape: of u, ``[B, L, D]``.
        both: whether both passes run, or the one from the leaves to the root alone.
    """
    batch, length, channels = shape
    return (6 if both else 2) * batch * (length - 1) * channels


def backward_flops(shape: Shape, both: bool) -> int:
    """15 FLOPs for each edge and channel, 5 for the up pass alone, the recomputed ξ and h included.

    For both passes: the forward pass runs twice, for (ξ, h) and for (η, G). ∂w = η·s + ξ·t then shares its differences
    s and t with them. For the up pass: ξ, the descent of G, and ∂w = ξ·G.

    Args:
        shape: of u, ``[B, L, D]``.
        both: see :func:`forward_flops`.
    """
    batch, length, channels = shape
    return (15 if both else 5) * batch * (length - 1) * channels


def _flops(
    u_shape: Shape,
    weight_shape: Shape,
    parent_shape: Shape,
    order_shape: Shape,
    both: bool,
    *_: Any,
    out_shape: Any = None,
) -> int:
    return forward_flops(u_shape, both)


def _flops_backward(
    grad_shape: Shape,
    u_shape: Shape,
    weight_shape: Shape,
    parent_shape: Shape,
    order_shape: Shape,
    both: bool,
    *_: Any,
    out_shape: Any = None,
) -> int:
    return backward_flops(u_shape, both)


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


def _flops_down(g_shape: Shape, *_: Any, out_shape: Any = None) -> int:
    return backward_flops(g_shape, both=False)


_NAME, _DOWN = "tree_ssm::tree_scan", "tree_ssm::tree_scan_down"
# The pass down alone, of which derivatives of higher orders are made. No forward or first backward pass calls it.
torch.library.define(_DOWN, "(Tensor g, Tensor weight, Tensor parent, Tensor order, Tensor? schedule=None) -> Tensor")
_OPERATOR = Operator(
    _NAME,
    needs=(f"{_NAME}_backward", "tree_ssm::tree_schedule", _DOWN),
    work=Work.SCAN,
    flops={_NAME: _flops, f"{_NAME}_backward": _flops_backward, _DOWN: _flops_down},
    onnx=_onnx,
    examples=_examples,
)

if register(_OPERATOR):
    torch.library.register_fake("tree_ssm::tree_schedule", _fake_schedule)
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(f"{_NAME}_backward", _fake_backward)
    register_derivatives(_library, _NAME, setup_context=_setup_context, backward=_backward, jvp=tree_scan_jvp)
    register_composite_derivatives(_library, f"{_NAME}_backward", tree_scan_backward_composite)
    torch.library.impl(_DOWN, ("cpu", "cuda"), _down)
    torch.library.register_fake(_DOWN, _fake_down)
    register_derivatives(_library, _DOWN, setup_context=_setup_down, backward=_backward_down, jvp=down_jvp)
    register_rule("tree_ssm::tree_schedule", schedule_rule)
    register_rule(_NAME, scan_rule(torch.ops.tree_ssm.tree_scan, values=2))
    register_rule(f"{_NAME}_backward", scan_rule(torch.ops.tree_ssm.tree_scan_backward, values=3))
    register_rule(_DOWN, scan_rule(torch.ops.tree_ssm.tree_scan_down, values=2))
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast casts nothing: u may be a half type beside a weight that keeps its precision.
        _library.impl("tree_scan", torch.library.fallthrough_kernel, key)
