"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal

from . import token_distances


def _inputs(batch: int, length: int, channels: int, states: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    x, delta = normal(generator, 2, batch, length, channels)
    B, delta_bias = normal(generator, batch, length, states), normal(generator, channels)
    start = torch.randint(0, 3, (batch,), generator=generator)
    return x, delta, delta_bias, B, start, torch.randint(length // 2, length + 1, (batch,), generator=generator)


def _distances(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    x, delta, delta_bias, B, start, end = inputs
    return token_distances(x, delta, delta_bias, B, start, end, backend=backend)


def _example(batch: int, length: int, channels: int, states: int) -> Example:
    return Example(
        f"{batch}×{length} tokens, {channels} channels, N = {states}",
        partial(_inputs, batch, length, channels, states),
        _distances,
        parameters=(2,),
        differentiable=False,
    )


EXAMPLES = (_example(2, 7, 5, 16), _example(3, 50, 64, 16), _example(2, 301, 96, 3))
