"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal, uniform
from tree_ssm.ops.spanning_tree import Tree
from tree_ssm.ops.spanning_tree.examples import grid_tree

from . import subtree_scan


def _inputs(
    batch: int, height: int, width: int, channels: int, states: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    length = height * width
    x, delta = normal(generator, 2, batch, length, channels)
    B, C = normal(generator, 2, batch, length, states)
    A, delta_bias = -uniform(generator, channels, states) - 0.1, normal(generator, channels) - 1
    return x, delta, A, B, C, delta_bias, *grid_tree(batch, height, width, generator)


def _scan(next_step: bool, backend: Backend, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    x, delta, A, B, C, delta_bias, parent, order = inputs
    return subtree_scan(x, delta, A, B, C, delta_bias, Tree(parent, order), next_step, backend)


def _example(batch: int, height: int, width: int, channels: int, states: int, next_step: bool) -> Example:
    return Example(
        f"{batch} trees of {height}×{width}, {channels} channels, N = {states}",
        partial(_inputs, batch, height, width, channels, states),
        partial(_scan, next_step),
        parameters=(2, 5),
    )


# Grids of one row are chains. A GPU scans more than 16 states in several calls.
EXAMPLES = (_example(2, 17, 13, 37, 4, False), _example(2, 1, 515, 40, 16, True), _example(1, 7, 9, 8, 20, False))
