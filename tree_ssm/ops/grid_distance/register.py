"""Fake, autocast and FLOP rules of ``tree_ssm::grid_cosine_distance``, which has no gradient."""

import torch
from torch.utils.flop_counter import register_flop_formula

from ssm_core import _ext
from ssm_core.ops.checks import accumulate_dtype

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(x):
    batch, height, width, _ = x.shape
    edges = (height - 1) * width + height * (width - 1)
    return x.new_empty(batch, edges, dtype=accumulate_dtype(x.dtype))


def _flops(x_shape, *_, out_shape=None, **__) -> int:
    """A multiply-add for each channel of an edge (the product of its ends) and of a vertex (its norm)."""
    batch, height, width, channels = x_shape
    edges = (height - 1) * width + height * (width - 1)
    return 2 * batch * (edges + height * width) * channels


if _ext.load():
    torch.library.register_fake("tree_ssm::grid_cosine_distance", _fake)
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Features are read as they come and compared in float32 at least.
        _library.impl("grid_cosine_distance", torch.library.fallthrough_kernel, key)
    register_flop_formula(torch.ops.tree_ssm.grid_cosine_distance)(_flops)
