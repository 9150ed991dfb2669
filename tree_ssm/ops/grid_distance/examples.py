"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal

from . import grid_distances


def _inputs(batch: int, height: int, width: int, channels: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (normal(generator, batch, height, width, channels),)


def _distances(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    (x,) = inputs
    return grid_distances(x, backend=backend)


def _example(batch: int, height: int, width: int, channels: int) -> Example:
    return Example(
        f"{batch}×{height}×{width} tokens, {channels} channels",
        partial(_inputs, batch, height, width, channels),
        _distances,
        differentiable=False,
    )


EXAMPLES = (_example(3, 14, 15, 37), _example(1, 56, 56, 160), _example(2, 7, 9, 1280))
