"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal

from . import depthwise_conv


def _inputs(
    batch: int, height: int, width: int, channels: int, with_bias: bool, generator: torch.Generator
) -> tuple[Tensor, ...]:
    x, weight = normal(generator, batch, height, width, channels), normal(generator, channels, 3, 3) / 2
    return (x, weight, normal(generator, channels)) if with_bias else (x, weight)


def _call(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    x, weight, *bias = inputs
    return depthwise_conv(x, weight, bias[0] if bias else None, backend)


def _example(batch: int, height: int, width: int, channels: int, with_bias: bool) -> Example:
    return Example(
        f"{batch} maps of {height}×{width}, {channels} channels, {'with a' if with_bias else 'without'} bias",
        partial(_inputs, batch, height, width, channels, with_bias),
        _call,
        parameters=(1, 2) if with_bias else (1,),
    )


# Several walks to a block, one walk of whole rows, rows in tiles, and channels that are read one by one.
EXAMPLES = (
    _example(5, 7, 7, 64, True),
    _example(1, 9, 56, 40, False),
    _example(1, 5, 70, 8, True),
    _example(2, 3, 5, 7, True),
)
