"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal

from . import mlp


def _inputs(tokens: int, channels: int, hidden: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (
        normal(generator, tokens, channels),
        normal(generator, hidden, channels) * channels**-0.5,
        normal(generator, hidden),
        normal(generator, channels, hidden) * hidden**-0.5,
        normal(generator, channels),
    )


def _call(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    x, weight1, bias1, weight2, bias2 = inputs
    return mlp(x, weight1, bias1, weight2, bias2, "auto" if backend == "cuda" else backend)


def _example(tokens: int, channels: int, hidden: int, differentiable: bool = True) -> Example:
    return Example(
        f"{tokens} tokens of {channels} channels, {hidden} hidden ones",
        partial(_inputs, tokens, channels, hidden),
        _call,
        parameters=(),
        differentiable=differentiable,
    )


# All weights in shared memory, chunk by chunk, and a width that has a kernel without gradients alone.
EXAMPLES = (_example(301, 64, 256), _example(301, 192, 768), _example(301, 384, 1536, differentiable=False))
