"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal

from . import gated_state_readout


def _inputs(batch: int, length: int, channels: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    h, x, gate = normal(generator, 3, batch, length, channels)
    D, weight, bias, out_weight, out_bias = normal(generator, 5, channels)
    return h * 2 + 1, x, normal(generator, batch, length), D, weight, bias, gate, out_weight, out_bias


def _readout(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    h, x, C, D, weight, bias, gate, out_weight, out_bias = inputs
    return gated_state_readout(h, x, C, D, weight, bias, gate, out_weight, out_bias, backend=backend)


def _example(batch: int, length: int, channels: int) -> Example:
    return Example(
        f"{batch}×{length} tokens, {channels} channels",
        partial(_inputs, batch, length, channels),
        _readout,
        parameters=(3, 4, 5, 7, 8),
    )


EXAMPLES = (_example(2, 50, 37), _example(2, 70, 160), _example(5, 49, 1280))
