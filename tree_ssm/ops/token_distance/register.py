"""Declares ``tree_ssm::token_distance``, which has no gradient, and registers its fake and autocast rules.

The schema is in ``csrc/token_distance/schema.cpp``. There is a kernel for GPUs alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, register

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(x: Tensor, delta: Tensor, delta_bias: Tensor, B: Tensor, start: Tensor, end: Tensor, reach: int) -> Tensor:
    batch, length, _ = x.shape
    furthest = min(reach, length - 1)
    return delta_bias.new_empty(batch, furthest * length - furthest * (furthest + 1) // 2)


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


if register(Operator("tree_ssm::token_distance", examples=_examples, device_types=("cuda",))):
    torch.library.register_fake("tree_ssm::token_distance", _fake)
    # Autocast changes nothing: the kernel reads half types and computes in float32.
    _library.impl("token_distance", torch.library.fallthrough_kernel, "AutocastCUDA")
