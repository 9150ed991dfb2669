"""What the operators' rules for ``torch.vmap`` share: the mapped dimension becomes part of one that the kernel has.

A rule is registered by :func:`register_rule`. It gets each argument with all its dimensions and the place of the mapped
one, folds that into the batch (or another dimension whose elements do not meet in the operator), calls the operator,
and unfolds the results.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .derivatives import Composite, without_autocast

BatchingRule = Callable[..., tuple[Any, Any]]
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


def register_rule(name: str, rule: BatchingRule) -> None:
    """Register an operator's rule. It is not called for a mapped dimension of no elements.

    Args:
        name: the operator's qualified name.
        rule: see ``torch.library.register_vmap``.
    """

    def of_any_size(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return rule(info, in_dims, *args) if info.batch_size else _of_none(rule, info, in_dims, args)

    torch.library.register_vmap(name, of_any_size)


def _of_none(rule: BatchingRule, info: Any, in_dims: tuple[int | None, ...], args: tuple[Any, ...]) -> tuple[Any, Any]:
    """The results of a rule for no samples. Their shapes are those for one sample that has no values."""
    given = next(x for x in args if isinstance(x, Tensor))

    def sized(x: Any, dim: int | None, size: int, device: torch.device) -> Any:
        if not isinstance(x, Tensor):
            return x
        return given.new_empty([size if i == dim else n for i, n in enumerate(x.shape)], dtype=x.dtype, device=device)

    one = [sized(x, dim, 1, torch.device("meta")) for x, dim in zip(args, in_dims, strict=True)]
    results, out_dims = rule(info._replace(batch_size=1), in_dims, *one)
    if isinstance(results, Tensor):
        return sized(results, out_dims, 0, given.device), out_dims
    return tuple(sized(y, dim, 0, given.device) for y, dim in zip(results, out_dims, strict=True)), out_dims


def register_composite_vmap(library: torch.library.Library, name: str, composite: Composite, outputs: int) -> None:
    """Let ``torch.vmap`` of an operator be that of a composite of operations that have rules of their own.

    This is for operators with arguments or results that all samples of a batch share, such as parameters.

    Args:
        library: the caller's library of the operator's namespace.
        name: the operator's qualified name.
        composite: the operator's outputs; see :class:`~ssm_core.ops.derivatives.Composite`.
        outputs: their number.
    """

    def kernel(keyset: Any, *args: Any) -> Any:
        # The arguments belong to the mapped level as they are, so that the operations of the composite are mapped too.
        with without_autocast(args):
            results = composite((True,) * outputs, *args)
        return results[0] if outputs == 1 else tuple(results)

    library.impl(name.partition("::")[2], kernel, "FuncTorchBatched", with_keyset=True)


def loop_rule(op: Callable[..., Any]) -> BatchingRule:
    """Make the rule of an operator that calls it for one sample after another.

    This is for operators with arguments or results that all samples of a batch share, where a composite would take too
    much memory.

    Args:
        op: the operator.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        samples = [
            op(*(x if dim is None else x.select(dim, i) for x, dim in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(samples[0], Tensor):
            return torch.stack(samples), 0
        results = tuple(torch.stack(outputs) for outputs in zip(*samples, strict=True))
        return results, (0,) * len(results)

    return rule


def refuse_mapped(op: str, what: str, *tensors: Tensor | None) -> None:
    """Raise ``NotImplementedError`` if torch.vmap maps over one of the tensors, whose values can then not be read.

    Args:
        op: the public function's name, for the message.
        what: what the tensors are, for the message.
        tensors: what the caller is going to read; None for what was left out.
    """
    for x in tensors:
        while x is not None and torch._C._functorch.is_functorch_wrapped_tensor(x):
            if torch._C._functorch.is_batchedtensor(x):
                raise NotImplementedError(
                    f"{op}: the reference reads the values of {what}, which torch.vmap maps over; call the compiled "
                    "kernel, or map over the samples in a loop"
                )
            x = torch._C._functorch.get_unwrapped(x)
