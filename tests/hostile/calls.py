"""What a drawn call of an operator is, and the gradients that a backward operator should give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Call:
    """A call that should succeed.

    Attributes:
        arguments: in the schema's order.
        expected: the results for such arguments, or None where they cannot be told.
    """

    arguments: list[Any]
    expected: Callable[..., Sequence[Tensor] | None]


def gradients_of(
    forward: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], upstream: Sequence[Tensor | None]
) -> list[Tensor]:
    """Autograd's gradients of ``forward(*inputs)``."""
    with torch.enable_grad():
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        outputs = forward(*leaves)
    pairs = [(y, g) for y, g in zip(outputs, upstream, strict=True) if g is not None and y.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in leaves]
    for y, g in pairs:
        if y.shape != g.shape:
            raise ValueError("a gradient has another shape than its output")
    outputs, upstream = zip(*pairs, strict=True)
    found = torch.autograd.grad(outputs, leaves, upstream, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]
