"""Declares ``tree_ssm::tree_scan`` and registers its fake, autograd and autocast rules.

The schemas are in ``csrc/tree_scan/schema.cpp``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.backend import no_second_derivative
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Table, Work, register

_library = torch.library.Library("tree_ssm", "IMPL")


def _piece_size(batch: int, length: int) -> int:
    """Vertices in each of the pieces that a GPU cuts a walk into, 0 if it stays whole; as in csrc/tree."""
    if length < 512 or batch * batch >= length:
        return 0
    size = 64
    while size * 512 < batch * length or size * 256 < length:
        size *= 2
    return size


def _fake_schedule(parent: Tensor) -> Tensor:
    # As ScheduleLayout::words() in csrc/tree/cuda/schedule.h: the steps of a walk, and for a walk that is cut also
    # its spines and pieces.
    batch, length = parent.shape
    size = _piece_size(batch, length)
    words = 4 * length + 4 + 4 * (3 * (length // size) + 2) if size else (2 * length + 3) // 4 * 4
    return parent.new_empty(batch, words, dtype=torch.int32)


def _fake(
    u: Tensor, weight: Tensor, parent: Tensor, order: Tensor, both: bool, schedule: Tensor | None = None
) -> Tensor:
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
    grad_u = torch.empty_like(u, memory_format=torch.contiguous_format)
    return grad_u, torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    # Only inputs are kept: computing ξ and h again is cheaper than keeping them.
    *tensors, ctx.both, schedule = inputs
    ctx.save_for_backward(*tensors, schedule)


def _backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, schedule = ctx.saved_tensors
    gradients = torch.ops.tree_ssm.tree_scan_backward(grad_h, *tensors, ctx.both, schedule)
    return *gradients, None, None, None, None


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


_NAME = "tree_ssm::tree_scan"
_OPERATOR = Operator(
    _NAME,
    needs=(f"{_NAME}_backward", "tree_ssm::tree_schedule"),
    work=Work.SCAN,
    flops={_NAME: _flops, f"{_NAME}_backward": _flops_backward},
    onnx=_onnx,
    examples=_examples,
)

if register(_OPERATOR):
    torch.library.register_fake("tree_ssm::tree_schedule", _fake_schedule)
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(f"{_NAME}_backward", _fake_backward)
    torch.library.register_autograd(_NAME, _backward, setup_context=_setup_context)
    torch.library.register_autograd(f"{_NAME}_backward", no_second_derivative("tree_scan"))
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast casts nothing: u may be a half type beside a weight that keeps its precision.
        _library.impl("tree_scan", torch.library.fallthrough_kernel, key)
