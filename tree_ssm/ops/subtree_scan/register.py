"""Declares ``tree_ssm::selective_subtree_scan`` and registers its fake, autograd and autocast rules.

The schemas are in ``csrc/subtree_scan/schema.cpp``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.backend import no_second_derivative
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Work, register

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
    inputs = (x, delta, A, B, C, delta_bias)
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    # Only inputs are kept: computing a state again is cheaper than keeping it. A missing gradient stays None.
    *tensors, ctx.next, schedule = inputs
    ctx.save_for_backward(*tensors, schedule)
    ctx.y_like = output[0].shape, output[0].dtype
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_root_state: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, schedule = ctx.saved_tensors
    if grad_y is None:
        shape, dtype = ctx.y_like
        grad_y = torch.zeros(shape, dtype=dtype, device=tensors[0].device)
    gradients = torch.ops.tree_ssm.selective_subtree_scan_backward(
        grad_y, grad_root_state, *tensors, ctx.next, schedule
    )
    return *gradients, None, None, None, None


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
    torch.library.register_autograd(_NAME, _backward, setup_context=_setup_context)
    torch.library.register_autograd(f"{_NAME}_backward", no_second_derivative("subtree_scan"))
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast casts nothing: the parameters keep their precision.
        _library.impl("selective_subtree_scan", torch.library.fallthrough_kernel, key)
