"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal

from . import state_readout


def _inputs(batch: int, length: int, channels: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    h, x = normal(generator, 2, batch, length, channels)
    return h * 2 + 1, x, normal(generator, batch, length), *normal(generator, 3, channels)


def _readout(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    h, x, C, D, weight, bias = inputs
    return state_readout(h, x, C, D, weight, bias, backend=backend)


def _example(batch: int, length: int, channels: int) -> Example:
    return Example(
        f"{batch}×{length} tokens, {channels} channels",
        partial(_inputs, batch, length, channels),
        _readout,
        parameters=(3, 4, 5),
    )


EXAMPLES = (_example(2, 50, 37), _example(2, 70, 160), _example(5, 49, 1280))
