"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal, uniform

from . import directional_scan


def _inputs(
    batch: int, length: int, channels: int, directions: int, states: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    orders = [torch.randperm(length, generator=generator) for _ in range(batch * directions)]
    return (
        normal(generator, batch, length, channels),
        normal(generator, batch, directions, length, channels) - 1,
        -uniform(generator, directions, channels, states) - 0.1,
        normal(generator, batch, directions, length, states),
        normal(generator, batch, directions, length, states),
        normal(generator, directions, channels),
        normal(generator, directions, channels) * 0.1,
        torch.stack(orders).view(batch, directions, length),
    )


def _scan(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    *values, order = inputs
    reverse = [direction % 2 == 1 for direction in range(order.shape[1])]
    return directional_scan(*values, order=order, reverse=reverse, backend=backend)


def _example(batch: int, length: int, channels: int, directions: int, states: int) -> Example:
    return Example(
        f"{batch}×{length} tokens, {channels} channels, {directions} directions, N = {states}",
        partial(_inputs, batch, length, channels, directions, states),
        _scan,
        parameters=(2, 5, 6),
    )


# On a GPU: one block, more states than one, a cluster of blocks, and a sequence that is longer than a cluster holds.
EXAMPLES = (
    _example(2, 49, 17, 3, 1),
    _example(1, 196, 24, 2, 16),
    _example(1, 3136, 24, 2, 1),
    _example(1, 4001, 18, 2, 1),
)
