"""Declares ``tree_ssm::state_readout`` and registers its fake, autograd and autocast rules.

The schemas are in ``csrc/state_readout/schema.cpp``.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Table, register

_library = torch.library.Library("tree_ssm", "IMPL")


def _fake(h: Tensor, x: Tensor, C: Tensor, D: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x)


def _fake_backward(
    grad_y: Tensor, h: Tensor, x: Tensor, C: Tensor, D: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, ...]:
    return torch.empty_like(h), torch.empty_like(x), C.new_empty(C.shape), *(torch.empty_like(D) for _ in range(3))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    # The backward pass reads h in any case, so it computes mean and deviation again instead of keeping them.
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.tree_ssm.state_readout_backward(grad_y, *ctx.saved_tensors, ctx.eps), None


def _flops(h_shape: Shape, *_: Any, out_shape: Any = None) -> int:
    """The layer norm, counted as ``ssm_core.flops`` counts PyTorch's: five operations an element, doubled."""
    return 2 * 5 * math.prod(h_shape)


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_NAME = "tree_ssm::state_readout"

_OPERATOR = Operator(_NAME, needs=(f"{_NAME}_backward",), flops={_NAME: _flops}, onnx=_onnx, examples=_examples)

if register(_OPERATOR):
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(f"{_NAME}_backward", _fake_backward)
    torch.library.register_autograd(_NAME, _backward, setup_context=_setup_context)
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast changes nothing: the kernel reads and writes half types and computes in float32.
        _library.impl("state_readout", torch.library.fallthrough_kernel, key)
