"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal, uniform
from tree_ssm.ops.spanning_tree import Tree
from tree_ssm.ops.spanning_tree.examples import grid_tree

from . import Direction, tree_scan


def _inputs(batch: int, height: int, width: int, channels: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    shape = (batch, height * width, channels)
    u, weight = normal(generator, *shape), uniform(generator, *shape) * 1.4 - 0.3
    return u, weight, *grid_tree(batch, height, width, generator)


def _scan(direction: Direction, backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    u, weight, parent, order = inputs
    return tree_scan(u, weight, Tree(parent, order), direction, backend)


def _example(batch: int, height: int, width: int, channels: int, direction: Direction) -> Example:
    return Example(
        f"{batch} trees of {height}×{width}, {channels} channels, {direction}",
        partial(_inputs, batch, height, width, channels),
        partial(_scan, direction),
    )


# A GPU cuts the trees of 56×56 vertices into pieces, and walks the others whole.
EXAMPLES = (
    _example(3, 17, 13, 37, "both"),
    _example(3, 17, 13, 37, "up"),
    _example(2, 56, 56, 32, "both"),
    _example(2, 56, 56, 32, "up"),
)
