"""An example of an operator: inputs on which ``tree-ssm doctor`` compares its kernels with its reference."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .backend import Backend

Results = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Example:
    """Inputs of an operator, and the call that is compared between backends.

    Attributes:
        sizes: what a report says about the inputs, such as ``"2×49 tokens, 17 channels"``. Sizes should be such that
            each way through the kernels is taken by one of the examples.
        inputs: draws the inputs from a generator, on the CPU, in float64 or as integers.
        call: calls the operator's public function with a backend and the inputs.
        parameters: the places of the inputs that keep float32 beside a half type.
        differentiable: whether the operator has a backward pass.
    """

    sizes: str
    inputs: Callable[[torch.Generator], tuple[Tensor, ...]]
    call: Callable[[Backend, tuple[Tensor, ...]], Results]
    parameters: tuple[int, ...] = ()
    differentiable: bool = True


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw a normal tensor in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw a tensor in float64 with values from 0 to 1."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)
