"""The selective scan under ``torch.vmap``: mapped samples become groups of directions of their own.

A group has its own parameters, so the same rule serves shared and mapped ones, and the backward pass gives each
sample's gradient of the parameters, which it would add up over a batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.vmap import fold, unfold

# As kMaxDirections in csrc/selective_scan/cuda/tuning.h: more directions take several calls.
_MOST_DIRECTIONS = 8192
# The dimension of the groups or directions in u, delta, A, B, C, D, delta_bias and order.
_DIRECTIONS = (1, 1, 0, 1, 1, 0, 0, 1)


def forward_rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """``torch.vmap`` of ``ssm_core::selective_scan``."""
    return _in_groups(torch.ops.ssm_core.selective_scan, _DIRECTIONS, (1, 1), info.batch_size, in_dims, args)


def backward_rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """``torch.vmap`` of ``ssm_core::selective_scan_backward``."""
    return _in_groups(
        torch.ops.ssm_core.selective_scan_backward,
        (1, 1, *_DIRECTIONS),
        _DIRECTIONS[:7],
        info.batch_size,
        in_dims,
        args,
    )


def _in_groups(
    op: Callable[..., tuple[Tensor, ...]],
    into: Sequence[int],
    results_into: Sequence[int],
    size: int,
    in_dims: tuple[Any, ...],
    args: tuple[Any, ...],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Call an operator whose last arguments are ``reverse`` and ``delta_softplus`` with all samples side by side."""
    *tensors, reverse, delta_softplus = args
    each = max(_MOST_DIRECTIONS // len(reverse), 1)
    parts = []
    for first in range(0, size, each):
        count = min(each, size - first)
        folded = []
        for x, mapped, dim in zip(tensors, in_dims, into, strict=False):
            part = x if x is None or mapped is None else x.narrow(mapped, first, count)
            part = fold(part, mapped, count, dim)
            # The kernels read whole parameters and rows of channels.
            ready = part is None or (part.is_contiguous() if dim == 0 else part.stride(-1) == 1)
            folded.append(part if ready else part.contiguous())
        outputs = op(*folded, list(reverse) * count, delta_softplus)
        parts.append([unfold(y, count, dim)[0] for y, dim in zip(outputs, results_into, strict=True)])
    results = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True), results_into)
    return tuple(results), tuple(results_into)
