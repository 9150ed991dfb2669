"""What the operators' rules for ``torch.vmap`` share: the mapped dimension becomes part of one that the kernel has.

A rule is registered by ``torch.library.register_vmap``. It gets each argument with all its dimensions and the place of
the mapped one, folds that into the batch (or another dimension whose elements do not meet in the operator), calls the
operator, and unfolds the results.
"""

from typing import TypeVar

from torch import Tensor

OptionalTensor = TypeVar("OptionalTensor", Tensor, None)


def fold(x: OptionalTensor, mapped: int | None, size: int, into: int) -> OptionalTensor:
    """Fold the mapped dimension into another one, where it varies slowest.

    Args:
        x: an argument with all its dimensions, or None for one that was left out.
        mapped: the place of the mapped dimension; None if the argument has none and is the same for all.
        size: the size of the mapped dimension.
        into: the dimension to fold into, counted without the mapped one.

    Returns:
        x without the mapped dimension, with ``size`` times as many elements in ``into``.
    """
    if x is None:
        return None
    first = x.unsqueeze(0).expand(size, *x.shape) if mapped is None else x.movedim(mapped, 0)
    return first.movedim(0, into).flatten(into, into + 1)


def unfold(x: Tensor, size: int, dim: int) -> tuple[Tensor, int]:
    """Undo :func:`fold` on a result.

    Returns:
        The result with all its dimensions, and the place of the mapped one.
    """
    return x.unflatten(dim, (size, x.shape[dim] // size)), dim
