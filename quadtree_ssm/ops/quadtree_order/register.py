"""Declares the quadtree operators, which have no gradients, and registers their fake rules.

The schemas are in ``csrc/quadtree_order/schema.cpp``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Table, register


def _fake_order(choice: Tensor, height: int, width: int, levels: int, shift_y: int, shift_x: int) -> Tensor:
    return choice.new_empty(choice.shape[0], height * width)


def _fake_mask_gradient(
    a: Tensor, b: Tensor, choice: Tensor, height: int, width: int, shift_y: int, shift_x: int
) -> Tensor:
    return a.new_empty(a.shape[0], 4, dtype=accumulate_dtype(a.dtype))


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
if register(Operator("quadtree_ssm::mask_gradient", examples=_mask_gradient_examples)):
    torch.library.register_fake("quadtree_ssm::mask_gradient", _fake_mask_gradient)
