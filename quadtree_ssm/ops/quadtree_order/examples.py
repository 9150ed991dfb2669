"""Inputs on which ``tree-ssm doctor`` compares the kernels of these operators with their references."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal

from . import mask_gradient, quadtree_order
from .geometry import Shift


def _choice(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randint(4, (batch,), generator=generator),)


def _order(height: int, width: int, shift: Shift, backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    (choice,) = inputs
    return quadtree_order(choice, height, width, shift=shift, backend=backend)


def _mask_inputs(batch: int, length: int, channels: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    a, b = normal(generator, 2, batch, length, channels)
    return a, b, *_choice(batch, generator)


def _mask_gradient(height: int, width: int, shift: Shift, backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    a, b, choice = inputs
    return mask_gradient(a, b, choice, height, width, shift, backend)


def _order_example(batch: int, height: int, width: int, shift: Shift) -> Example:
    return Example(
        f"{batch}×{height}×{width} tokens",
        partial(_choice, batch),
        partial(_order, height, width, shift),
        differentiable=False,
    )


def _mask_example(batch: int, height: int, width: int, shift: Shift, channels: int) -> Example:
    return Example(
        f"{batch}×{height}×{width} tokens, {channels} channels",
        partial(_mask_inputs, batch, height * width, channels),
        partial(_mask_gradient, height, width, shift),
        differentiable=False,
    )


EXAMPLES = (_order_example(5, 7, 9, (1, -1)), _order_example(8, 56, 56, (0, 0)))
MASK_GRADIENT_EXAMPLES = (_mask_example(5, 7, 9, (1, -1), 37), _mask_example(2, 56, 56, (0, 0), 64))
