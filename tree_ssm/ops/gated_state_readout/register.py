"""Declares ``tree_ssm::gated_state_readout`` and registers its fake, autograd and autocast rules.

The schemas are in ``csrc/gated_state_readout/schema.cpp``.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core.ops.checks import require_shapes
from ssm_core.ops.derivatives import composite_jvp, register_composite_derivatives, register_derivatives
from ssm_core.ops.example import Example
from ssm_core.ops.registry import Operator, Shape, Table, register
from ssm_core.ops.vmap import fold, loop_rule, register_composite_vmap, register_rule, unfold

from .derivatives import gated_readout_backward_composite, gated_readout_composite

_library = torch.library.Library("tree_ssm", "IMPL")
_MAPS = (0, 1, 2, 7)  # the places of h, x, C and the gate among the arguments; a batch shares the parameters


def _fake(
    h: Tensor,
    x: Tensor,
    C: Tensor,
    D: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    gate: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    out_eps: float,
) -> Tensor:
    require_shapes(
        "gated_state_readout",
        x=(x, "BLD"),
        h=(h, "BLD"),
        C=(C, "BL"),
        D=(D, "D"),
        weight=(weight, "D"),
        bias=(bias, "D"),
        gate=(gate, "BLD"),
        out_weight=(out_weight, "D"),
        out_bias=(out_bias, "D"),
    )
    return torch.empty_like(x)


def _fake_backward(grad_y: Tensor, *args: Any) -> tuple[Tensor, ...]:
    y = _fake(*args)
    require_shapes("gated_state_readout", y=(y, "BLD"), grad_y=(grad_y, "BLD"))
    h, x, C, D = args[:4]
    of_readout, of_norm = ([torch.empty_like(D) for _ in range(count)] for count in (3, 2))
    grad_gate = torch.empty_like(x)
    return torch.empty_like(h), torch.empty_like(x), C.new_empty(C.shape), *of_readout, grad_gate, *of_norm


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    # The backward pass reads h and x in any case, so it computes both norms again instead of keeping them.
    h, x, C, D, weight, bias, ctx.eps, gate, out_weight, out_bias, ctx.out_eps = inputs
    ctx.save_for_backward(h, x, C, D, weight, bias, gate, out_weight, out_bias)


def _backward(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 11
    *of_readout, gate, out_weight, out_bias = ctx.saved_tensors
    gradients = torch.ops.tree_ssm.gated_state_readout_backward(
        grad_y, *of_readout, ctx.eps, gate, out_weight, out_bias, ctx.out_eps
    )
    return *gradients[:6], None, *gradients[6:], None


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    if any(dim is not None for place, dim in enumerate(in_dims) if place not in _MAPS):
        return loop_rule(torch.ops.tree_ssm.gated_state_readout)(info, in_dims, *args)
    given = list(args)
    for place in _MAPS:
        given[place] = fold(args[place], in_dims[place], info.batch_size, 0).contiguous()
    return unfold(torch.ops.tree_ssm.gated_state_readout(*given), info.batch_size, 0)


def _flops(h_shape: Shape, *_: Any, out_shape: Any = None) -> int:
    """Two layer norms, counted as ``ssm_core.flops`` counts PyTorch's: five operations an element each, doubled."""
    return 2 * 2 * 5 * math.prod(h_shape)


def _onnx() -> Table:
    from .to_onnx import TRANSLATIONS

    return TRANSLATIONS


def _examples() -> Sequence[Example]:
    from .examples import EXAMPLES

    return EXAMPLES


_NAME = "tree_ssm::gated_state_readout"

_OPERATOR = Operator(_NAME, needs=(f"{_NAME}_backward",), flops={_NAME: _flops}, onnx=_onnx, examples=_examples)

if register(_OPERATOR):
    torch.library.register_fake(_NAME, _fake)
    torch.library.register_fake(f"{_NAME}_backward", _fake_backward)
    jvp = composite_jvp(gated_readout_composite, outputs=1)
    register_derivatives(_library, _NAME, setup_context=_setup_context, backward=_backward, jvp=jvp)
    register_composite_derivatives(_library, f"{_NAME}_backward", gated_readout_backward_composite)
    register_rule(_NAME, _vmap)
    register_composite_vmap(_library, f"{_NAME}_backward", gated_readout_backward_composite, outputs=9)
    for key in ("AutocastCPU", "AutocastCUDA"):
        # Autocast changes nothing: the kernel reads and writes half types and computes in float32.
        _library.impl("gated_state_readout", torch.library.fallthrough_kernel, key)
