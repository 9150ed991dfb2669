"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference.

The scans along trees take the trees of :func:`grid_tree` for their own examples.
"""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, uniform

from . import Tree, grid_edges, minimum_spanning_tree


def _weights(batch: int, edges: int, generator: torch.Generator) -> Tensor:
    """Weights among which many are equal."""
    return uniform(generator, batch, edges).mul(100).floor()


def grid_tree(batch: int, height: int, width: int, generator: torch.Generator) -> Tree:
    """Grow spanning trees of grids with random weights by the reference, from a root in the middle of the map."""
    weight = _weights(batch, len(grid_edges(height, width)), generator)
    root = height // 2 * width + width // 2
    return minimum_spanning_tree(weight, height, width, root=root, backend="reference")


def _grid_inputs(batch: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    root = torch.randint(height * width, (batch,), generator=generator)
    return _weights(batch, len(grid_edges(height, width)), generator), root


def _grid(height: int, width: int, backend: Backend, inputs: tuple[Tensor, ...]) -> Tree:
    weight, root = inputs
    return minimum_spanning_tree(weight, height, width, root=root, backend=backend)


def _list_inputs(batch: int, length: int, extra: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Edges to an earlier vertex each, which connect all, and ``extra`` edges between any two vertices."""
    later = torch.arange(1, length)
    earlier = (uniform(generator, length - 1) * later).long()
    edges = torch.cat([torch.stack([later, earlier], 1), torch.randint(length, (extra, 2), generator=generator)])
    root = torch.randint(length, (batch,), generator=generator)
    return _weights(batch, len(edges), generator), root, edges


def _list(length: int, backend: Backend, inputs: tuple[Tensor, ...]) -> Tree:
    weight, root, edges = inputs
    return minimum_spanning_tree(weight, edges=edges, num_vertices=length, root=root, backend=backend)


def _grid_example(batch: int, height: int, width: int) -> Example:
    return Example(
        f"{batch} grids of {height}×{width}",
        partial(_grid_inputs, batch, height, width),
        partial(_grid, height, width),
        differentiable=False,
    )


def _list_example(batch: int, length: int, extra: int) -> Example:
    return Example(
        f"{batch} lists of {length - 1 + extra} edges over {length} vertices",
        partial(_list_inputs, batch, length, extra),
        partial(_list, length),
        differentiable=False,
    )


EXAMPLES = (_grid_example(8, 7, 9), _grid_example(4, 56, 56), _grid_example(1, 95, 97), _list_example(4, 500, 530))
