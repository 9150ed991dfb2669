"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal, uniform
from tree_ssm.ops.spanning_tree import Tree
from tree_ssm.ops.spanning_tree.examples import grid_tree

from . import selective_tree_scan


def _inputs(batch: int, height: int, width: int, channels: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    x, delta = normal(generator, 2, batch, height * width, channels)
    A, B = -uniform(generator, channels) - 0.1, normal(generator, batch, height * width)
    return x, delta, A, B, normal(generator, channels) - 2, *grid_tree(batch, height, width, generator)


def _scan(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    x, delta, A, B, delta_bias, parent, order = inputs
    return selective_tree_scan(x, delta, A, B, delta_bias, Tree(parent, order), backend)


def _example(batch: int, height: int, width: int, channels: int) -> Example:
    return Example(
        f"{batch} trees of {height}×{width}, {channels} channels",
        partial(_inputs, batch, height, width, channels),
        _scan,
        parameters=(2, 4),
    )


# A GPU cuts the trees of 56×56 vertices into pieces, and walks the others whole.
EXAMPLES = (_example(3, 17, 13, 37), _example(2, 56, 56, 32))
