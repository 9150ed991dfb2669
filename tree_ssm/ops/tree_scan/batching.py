"""The rules of ``torch.vmap`` for the operators along trees."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.vmap import BatchingRule, fold, unfold

_BATCH, _CHANNELS = 0, 2


def schedule_rule(info: Any, in_dims: tuple[int | None], parent: Tensor) -> tuple[Tensor, int]:
    """The rule of ``tree_ssm::tree_schedule``, whose mapped dimension becomes part of the batch."""
    size = info.batch_size
    return unfold(torch.ops.tree_ssm.tree_schedule(fold(parent, in_dims[0], size, _BATCH)), size, _BATCH)


def scan_rule(op: Callable[..., Any], values: int) -> BatchingRule:
    """The rule of an operator on ``[B, L, D]`` tensors along trees.

    If all samples of the mapped dimension share their trees, it becomes part of the channels, else of the batch.

    Args:
        op: the operator; its arguments are tensors ``[B, L, D]``, then parent, order and others, then a schedule.
        values: the number of tensors ``[B, L, D]``.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        size, trees = info.batch_size, slice(values, values + 2)
        parent, order, *others = args[trees.start :]
        into = _CHANNELS
        if any(dim is not None for dim in in_dims[trees.start :]):
            into = _BATCH
            parent, order = (fold(x, dim, size, into) for x, dim in zip(args[trees], in_dims[trees], strict=True))
            others = [fold_schedule(x, parent) if isinstance(x, Tensor) else x for x in others]
        folded = (fold(x, dim, size, into) for x, dim in zip(args[:values], in_dims, strict=False))
        result = op(*folded, parent, order, *others)
        if isinstance(result, Tensor):
            return unfold(result, size, into)
        return tuple(unfold(x, size, into)[0] for x in result), (into,) * len(result)

    return rule


def fold_schedule(schedule: Tensor | None, parent: Tensor) -> Tensor | None:
    """The schedule of a batch that a mapped dimension became part of. How trees are cut depends on the batch.

    Args:
        schedule: a schedule of the batch before, or None where there was none.
        parent: the parents of the batch after, ``[B, L]``.
    """
    return None if schedule is None else torch.ops.tree_ssm.tree_schedule(parent)
