"""Declares ``tree_ssm::grid_cosine_distance``, which has no gradient, and registers its fake and autocast rules.

The schema is in ``csrc/grid_distance/schema.cpp``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype, require_shapes
from ssm_core.ops.derivatives import no_gradient
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Table, Work, register
from ssm_core.ops.vmap import fold, register_rule, unfold

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(x: Tensor) -> Tensor:
    require_shapes("grid_distances", x=(x, "BHWD"))
    batch, height, width, _ = x.shape
    edges = (height - 1) * width + height * (width - 1)
    return x.new_empty(batch, edges, dtype=accumulate_dtype(x.dtype))


def _vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor) -> tuple[Tensor, int]:
    folded = fold(x, in_dims[0], info.batch_size, 0).contiguous()
    return unfold(torch.ops.tree_ssm.grid_cosine_distance(folded), info.batch_size, 0)


def _flops(x_shape: Shape, *, out_shape: Any = None) -> int:
    """A multiply-add for each channel of an edge (the product of its ends) and of a vertex (its norm)."""
    batch, height, width, channels = x_shape
    edges = (height - 1) * width + height * (width - 1)
    return 2 * batch * (edges + height * width) * channels


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_NAME = "tree_ssm::grid_cosine_distance"

if register(Operator(_NAME, work=Work.TREE, flops={_NAME: _flops}, onnx=_onnx, examples=_examples)):
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_autograd(_NAME, no_gradient("grid_distances"))
    register_rule(_NAME, _vmap)
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast changes nothing: the kernel reads half types and computes in float32.
        _library.impl("grid_cosine_distance", torch.library.fallthrough_kernel, key)
