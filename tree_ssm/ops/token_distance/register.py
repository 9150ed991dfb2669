"""Declares ``tree_ssm::token_distance``, which has no gradient, and registers its fake and autocast rules.

The schema is in ``csrc/token_distance/schema.cpp``. There is a kernel for GPUs alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import require_shapes
from ssm_core.ops.derivatives import no_gradient
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, register
from ssm_core.ops.vmap import fold, loop_rule, register_rule, unfold

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(x: Tensor, delta: Tensor, delta_bias: Tensor, B: Tensor, start: Tensor, end: Tensor, reach: int) -> Tensor:
    require_shapes(
        "token_distances",
        x=(x, "BLD"),
        delta=(delta, "BLD"),
        delta_bias=(delta_bias, "D"),
        B=(B, "BLN"),
        start=(start, "B"),
        end=(end, "B"),
    )
    batch, length, _ = x.shape
    furthest = min(reach, length - 1)
    return delta_bias.new_empty(batch, furthest * length - furthest * (furthest + 1) // 2)


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    if in_dims[2] is not None:  # delta_bias, which a batch shares
        return loop_rule(torch.ops.tree_ssm.token_distance)(info, in_dims, *args)
    size = info.batch_size
    folded = [x if place in (2, 6) else fold(x, in_dims[place], size, 0) for place, x in enumerate(args)]
    return unfold(torch.ops.tree_ssm.token_distance(*folded), size, 0)


if register(Operator("tree_ssm::token_distance", examples=_examples, device_types=("cuda",))):
    torch.library.register_fake("tree_ssm::token_distance", _fake)
    torch.library.register_autograd("tree_ssm::token_distance", no_gradient("token_distances"))
    register_rule("tree_ssm::token_distance", _vmap)
    # Autocast changes nothing: the kernel reads half types and computes in float32.
    _library.impl("token_distance", torch.library.fallthrough_kernel, "AutocastCUDA")
