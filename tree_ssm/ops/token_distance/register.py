"""Fake and autocast rules of ``tree_ssm::token_distance``, which has no gradient; its schema: csrc/library.cpp."""

import torch

from ssm_core import _ext

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(x, delta, delta_bias, B, start, end, reach):
    batch, length, _ = x.shape
    furthest = min(reach, length - 1)
    return delta_bias.new_empty(batch, furthest * length - furthest * (furthest + 1) // 2)


if _ext.load():
    torch.library.register_fake("tree_ssm::token_distance", _fake)
    # Features are read as they come and compared in float32 at least.
    _library.impl("token_distance", torch.library.fallthrough_kernel, "AutocastCUDA")
