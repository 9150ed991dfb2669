"""Declares the quadtree operators and registers their rules.

An order is discrete and has no derivative. The mask's gradient is bilinear, and its derivatives are its reference's.

The schemas are in ``csrc/quadtree_order/schema.cpp``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype, require_shapes
from ssm_core.ops.derivatives import register_composite_derivatives
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Table, register
from ssm_core.ops.vmap import fold, register_rule, unfold

from .reference import mask_gradient_reference

_library = torch.library.Library("quadtree_ssm", "IMPL")


def _fake_order(choice: Tensor, height: int, width: int, levels: int, shift_y: int, shift_x: int) -> Tensor:
    require_shapes("quadtree_order", choice=(choice, "B"))
    return choice.new_empty(choice.shape[0], height * width)


def _fake_mask_gradient(
    a: Tensor, b: Tensor, choice: Tensor, height: int, width: int, shift_y: int, shift_x: int
) -> Tensor:
    require_shapes("mask_gradient", choice=(choice, "B"), a=(a, "BLD"), b=(b, "BLD"))
    return a.new_empty(a.shape[0], 4, dtype=accumulate_dtype(a.dtype))


def _vmap_order(info: Any, in_dims: tuple[int | None, ...], choice: Tensor, *geometry: int) -> tuple[Tensor, int]:
    folded = fold(choice, in_dims[0], info.batch_size, 0)
    return unfold(torch.ops.quadtree_ssm.quadtree_order(folded, *geometry), info.batch_size, 0)


def _vmap_mask_gradient(
    info: Any, in_dims: tuple[int | None, ...], a: Tensor, b: Tensor, choice: Tensor, *geometry: int
) -> tuple[Tensor, int]:
    size = info.batch_size
    a, b, choice = (fold(x, dim, size, 0).contiguous() for x, dim in zip((a, b, choice), in_dims, strict=False))
    return unfold(torch.ops.quadtree_ssm.mask_gradient(a, b, choice, *geometry), size, 0)


def _mask_gradient_composite(
    wanted: Sequence[bool],
    a: Tensor,
    b: Tensor,
    choice: Tensor,
    height: int,
    width: int,
    shift_y: int,
    shift_x: int,
) -> tuple[Tensor]:
    return (mask_gradient_reference(a, b, choice, height, width, (shift_y, shift_x)),)


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


def _mask_gradient_examples() -> Sequence[Example]:
    from .examples import MASK_GRADIENT_EXAMPLES

    return MASK_GRADIENT_EXAMPLES


if register(Operator("quadtree_ssm::quadtree_order", onnx=_onnx, examples=_examples)):
    torch.library.register_fake("quadtree_ssm::quadtree_order", _fake_order)
    register_rule("quadtree_ssm::quadtree_order", _vmap_order)
if register(Operator("quadtree_ssm::mask_gradient", examples=_mask_gradient_examples)):
    torch.library.register_fake("quadtree_ssm::mask_gradient", _fake_mask_gradient)
    register_rule("quadtree_ssm::mask_gradient", _vmap_mask_gradient)
    register_composite_derivatives(_library, "quadtree_ssm::mask_gradient", _mask_gradient_composite)
