"""Declares ``tree_ssm::selective_subtree_scan`` and registers its fake, autograd and autocast rules.

The schemas are in ``csrc/subtree_scan/schema.cpp``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import require_shapes
from ssm_core.ops.derivatives import composite_jvp, register_composite_derivatives, register_derivatives
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Work, register
from ssm_core.ops.vmap import fold, loop_rule, register_rule, unfold
from tree_ssm.ops.tree_scan.batching import fold_schedule

from .derivatives import subtree_scan_backward_composite, subtree_scan_composite

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    delta_bias: Tensor,
    parent: Tensor,
    order: Tensor,
    next: bool,
    schedule: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    require_shapes(
        "subtree_scan",
        x=(x, "BLD"),
        delta=(delta, "BLD"),
        A=(A, "DN"),
        B=(B, "BLN"),
        C=(C, "BLN"),
        delta_bias=(delta_bias, "D"),
        parent=(parent, "BL"),
        order=(order, "BL"),
    )
    return torch.empty_like(x, memory_format=torch.contiguous_format), A.new_empty(x.shape[0], *A.shape)


def _fake_backward(
    grad_y: Tensor,
    grad_root_state: Tensor | None,
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    delta_bias: Tensor,
    parent: Tensor,
    order: Tensor,
    next: bool,
    schedule: Tensor | None = None,
) -> tuple[Tensor, ...]:
    y, root_state = _fake(x, delta, A, B, C, delta_bias, parent, order, next)
    require_shapes("subtree_scan", y=(y, "BLD"), grad_y=(grad_y, "BLD"))
    require_shapes("subtree_scan", root_state=(root_state, "BDN"), grad_root_state=(grad_root_state, "BDN"))
    inputs = (x, delta, A, B, C, delta_bias)
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    # Only inputs are kept: computing a state again is cheaper than keeping it. A missing gradient stays None.
    *tensors, ctx.next, schedule = inputs
    ctx.save_for_backward(*tensors, schedule)
    ctx.y_like = output[0].shape, output[0].dtype


def _backward(ctx: Any, grad_y: Tensor | None, grad_root_state: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, schedule = ctx.saved_tensors
    if grad_y is None and grad_root_state is None:
        return (None,) * 10
    if grad_y is None:
        shape, dtype = ctx.y_like
        grad_y = torch.zeros(shape, dtype=dtype, device=tensors[0].device)
    gradients = torch.ops.tree_ssm.selective_subtree_scan_backward(
        grad_y, grad_root_state, *tensors, ctx.next, schedule
    )
    return *gradients, None, None, None, None


_PARAMETERS, _SAMPLES = (2, 5), (0, 1, 3, 4, 6, 7)  # the places of A and delta_bias, and of what has a batch dimension


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
    op, size = torch.ops.tree_ssm.selective_subtree_scan, info.batch_size
    if any(in_dims[place] is not None for place in _PARAMETERS):
        return loop_rule(op)(info, in_dims, *args)
    x, delta, B, C, parent, order = (fold(args[place], in_dims[place], size, 0) for place in _SAMPLES)
    _, _, A, _, _, delta_bias, _, _, next_step, *schedules = args
    schedules = [fold_schedule(schedule, parent) for schedule in schedules]
    results = op(x, delta, A, B, C, delta_bias, parent, order, next_step, *schedules)
    return tuple(unfold(y, size, 0)[0] for y in results), (0, 0)


def _flops(x_shape: Shape, delta_shape: Shape, A_shape: Shape, *_: Any, out_shape: Any = None) -> int:
    """A multiply-add for the edge and one for the output, for every token, channel and state.

    Elementwise operations are not counted, here or for any other scan.
    """
    batch, length, _channels = x_shape
    channels, states = A_shape
    return 4 * batch * length * channels * states


def _flops_backward(
    grad_shape: Shape,
    root_shape: Shape | None,
    x_shape: Shape,
    delta_shape: Shape,
    A_shape: Shape,
    *_: Any,
    out_shape: Any = None,
) -> int:
    """The states again, their gradient, and a multiply-add for each of A, B, C, x and the step."""
    batch, length, _channels = x_shape
    channels, states = A_shape
    return 14 * batch * length * channels * states


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_NAME = "tree_ssm::selective_subtree_scan"
_OPERATOR = Operator(
    _NAME,
    needs=(f"{_NAME}_backward", "tree_ssm::tree_schedule"),
    work=Work.SCAN,
    flops={_NAME: _flops, f"{_NAME}_backward": _flops_backward},
    examples=_examples,
)

if register(_OPERATOR):
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(f"{_NAME}_backward", _fake_backward)
    jvp = composite_jvp(subtree_scan_composite, outputs=2)
    register_derivatives(_library, _NAME, setup_context=_setup_context, backward=_backward, jvp=jvp)
    register_composite_derivatives(_library, f"{_NAME}_backward", subtree_scan_backward_composite)
    register_rule(_NAME, _vmap)
    # The gradients of the parameters are sums over a batch, so that each sample takes a call of its own.
    register_rule(f"{_NAME}_backward", loop_rule(torch.ops.tree_ssm.selective_subtree_scan_backward))
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast casts nothing: the parameters keep their precision.
        _library.impl("selective_subtree_scan", torch.library.fallthrough_kernel, key)
