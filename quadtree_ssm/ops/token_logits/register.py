"""Declares ``quadtree_ssm::token_logits`` and registers its rules. Its derivatives are those of PyTorch's layers.

Exports have no form of it, since they are made on the CPU, where PyTorch's layers compute it.

The schema is in ``csrc/token_logits/schema.cpp``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import require_shapes
from ssm_core.ops.derivatives import register_composite_derivatives
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, register
from ssm_core.ops.vmap import register_composite_vmap

from .reference import token_logits_reference

_library = torch.library.Library("quadtree_ssm", "IMPL")
_NAME = "quadtree_ssm::token_logits"


def check_shapes(x: Tensor, gamma: Tensor, beta: Tensor, *layers: Tensor) -> None:
    """Raise ValueError if a shape does not fit; ``layers`` are the weight and the bias of each."""
    weight1, bias1, weight2, bias2, weight3, bias3, weight4, bias4 = layers
    require_shapes(
        "token_logits", x=(x, "TD"), gamma=(gamma, "D"), beta=(beta, "D"), weight1=(weight1, "DD"), bias1=(bias1, "D"),
        weight2=(weight2, "ED"), bias2=(bias2, "E"), weight3=(weight3, "FE"), bias3=(bias3, "F"),
        weight4=(weight4, "F"), bias4=(bias4, ""),
    )  # fmt: skip


def _fake(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, *layers: Tensor) -> Tensor:
    check_shapes(x, gamma, beta, *layers)
    return gamma.new_empty(x.shape[0])


def _composite(
    wanted: Sequence[bool], x: Tensor, gamma: Tensor, beta: Tensor, eps: float, *layers: Tensor
) -> tuple[Tensor]:
    """Compute the operator by differentiable operations."""
    weight1, bias1, weight2, bias2, weight3, bias3, weight4, bias4 = layers
    logits = token_logits_reference(x, gamma, beta, weight1, bias1, weight2, bias2, weight3, bias3, weight4, bias4, eps)
    return (logits,)


def _flops(x_shape: Shape, *shapes: Any, out_shape: Any = None, **_: Any) -> int:
    """Four products, as PyTorch's layers have."""
    tokens, channels = x_shape
    return 2 * tokens * (channels**2 + channels * channels // 2 + channels // 2 * channels // 4 + channels // 4)


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_OPERATOR = Operator(_NAME, flops={_NAME: _flops}, examples=_examples, device_types=("cuda",))

if register(_OPERATOR):
    torch.library.register_fake(_NAME, _fake)
    register_composite_derivatives(_library, _NAME, _composite)
    register_composite_vmap(_library, _NAME, _composite, outputs=1)
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast changes nothing: the kernel reads the type that it is given.
        _library.impl("token_logits", torch.library.fallthrough_kernel, key)
