"""Higher derivatives of the selective scan in slabs of samples and groups, so that few states are in memory at once.

Samples and groups do not meet in a scan. A slab is computed and its states are freed before the next one begins, unless
autograd has to keep them for a derivative of yet higher order.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssm_core.ops.derivatives import composite_jvp, composite_vjp

from . import composite

# The states [B, K, L, D, N] of a slab: 128 MiB in float32. About 14 tensors of that size are alive at once.
_MOST_STATES = 2**25


class _Place(NamedTuple):
    """Where samples and directions are in a tensor; it has a group's directions apart or only the group."""

    samples: int | None
    directions: int
    apart: bool


_GROUP, _DIRECTION, _PARAMETER = _Place(0, 1, False), _Place(0, 1, True), _Place(None, 0, True)
# u, delta, A, B, C, D, delta_bias.
_INPUTS = (_GROUP, _DIRECTION, _PARAMETER, _DIRECTION, _DIRECTION, _PARAMETER, _PARAMETER)
_OUTPUTS = (_GROUP, _DIRECTION)  # y, last_state
_FORWARD = (*_INPUTS, _DIRECTION)  # and order
_BACKWARD = (*_OUTPUTS, *_FORWARD)


def forward_jvp(args: tuple[Any, ...], tangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The Jacobian-vector product of ``ssm_core::selective_scan``."""
    return _jvp(composite.forward, args, tangents, _FORWARD, _OUTPUTS)


def backward_jvp(args: tuple[Any, ...], tangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The Jacobian-vector product of ``ssm_core::selective_scan_backward``."""
    return _jvp(composite.backward, args, tangents, _BACKWARD, _INPUTS)


def backward_vjp(
    args: Sequence[Any], needed: Sequence[bool], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The vector-Jacobian product of ``ssm_core::selective_scan_backward``."""
    *tensors, reverse, delta_softplus = args
    count = len(tensors)

    def slab(values: list[Tensor | None], flags: list[bool]) -> Sequence[Tensor | None]:
        own = (*values[:count], flags, delta_softplus)
        return composite_vjp(composite.backward, own, needed, values[count:])[:count]

    results = _in_slabs(slab, [*tensors, *grads], (*_BACKWARD, *_INPUTS), _BACKWARD, tensors[2:5], reverse)
    return *results, None, None


def _jvp(
    function: Callable[..., Sequence[Tensor | None]],
    args: tuple[Any, ...],
    tangents: tuple[Tensor | None, ...],
    places: tuple[_Place, ...],
    results: tuple[_Place, ...],
) -> tuple[Tensor | None, ...]:
    *tensors, reverse, delta_softplus = args
    count = len(tensors)
    jvp = composite_jvp(function, outputs=len(results))

    def slab(values: list[Tensor | None], flags: list[bool]) -> Sequence[Tensor | None]:
        return jvp((*values[:count], flags, delta_softplus), (*values[count:], None, None))

    inputs = tensors[count - len(_FORWARD) :]
    return _in_slabs(slab, [*tensors, *tangents[:count]], (*places, *places), results, inputs[:3], reverse)


def _in_slabs(
    call: Callable[[list[Tensor | None], list[bool]], Sequence[Tensor | None]],
    values: Sequence[Tensor | None],
    places: Sequence[_Place],
    results: Sequence[_Place],
    shape_givers: Sequence[Tensor],  # u, delta, A
    reverse: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Call a function for each slab and put the slabs' results together; gradients of parameters are added up."""
    u, delta, A = shape_givers
    batch, groups = u.shape[:2]
    inner = delta.shape[1] // groups
    of_group = inner * delta.shape[2] * delta.shape[3] * A.shape[2]
    group_step = min(groups, max(_MOST_STATES // max(of_group, 1), 1))
    sample_step = max(_MOST_STATES // max(of_group * groups, 1), 1) if group_step == groups else 1

    rows = []
    for samples in _ranges(batch, sample_step):
        row = []
        for own in _ranges(groups, group_step):
            taken = [_take(x, place, samples, own, inner) for x, place in zip(values, places, strict=True)]
            row.append(call(taken, list(reverse[own.start * inner : own.stop * inner])))
        rows.append(
            [_join(parts, place.directions) for parts, place in zip(zip(*row, strict=True), results, strict=True)]
        )
    return tuple(_join(parts, place.samples) for parts, place in zip(zip(*rows, strict=True), results, strict=True))


def _ranges(size: int, step: int) -> Iterator[range]:
    """One range for a size of 0."""
    return (range(first, min(first + step, size)) for first in range(0, max(size, 1), step))


def _take(x: Tensor | None, place: _Place, samples: range, groups: range, inner: int) -> Tensor | None:
    if x is None:
        return None
    if place.samples is not None:
        x = x.narrow(place.samples, samples.start, len(samples))
    each = inner if place.apart else 1
    return x.narrow(place.directions, groups.start * each, len(groups) * each)


def _join(parts: Sequence[Tensor | None], dim: int | None) -> Tensor | None:
    given = [x for x in parts if x is not None]
    if len(given) < 2:
        return given[0] if given else None
    if dim is not None:
        return torch.cat(given, dim)
    total = given[0]
    for x in given[1:]:
        total = total + x
    return total
