"""Inputs on which ``tree-ssm doctor`` compares the kernel of this operator with its reference."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal

from . import token_logits


def _inputs(tokens: int, channels: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    widths = (channels, channels, channels // 2, channels // 4)
    inputs = [normal(generator, tokens, channels) * 2 + 1, *normal(generator, 2, channels)]
    for before, after in pairwise(widths):
        inputs += [normal(generator, after, before) * before**-0.5, normal(generator, after)]
    return *inputs, normal(generator, channels // 4), normal(generator, 1)[0]


def _call(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    x, gamma, beta, *layers = inputs
    weight1, bias1, weight2, bias2, weight3, bias3, weight4, bias4 = layers
    return token_logits(
        x, gamma, beta, weight1, bias1, weight2, bias2, weight3, bias3, weight4, bias4,
        backend="auto" if backend == "cuda" else backend,
    )  # fmt: skip


def _example(tokens: int, channels: int) -> Example:
    return Example(
        f"{tokens} tokens of {channels} channels",
        partial(_inputs, tokens, channels),
        _call,
        parameters=(1, 2, 4, 6, 8, 9, 10),
        differentiable=False,
    )


# All weights in shared memory, chunk by chunk, and with the tokens in shared memory.
EXAMPLES = (_example(301, 96), _example(301, 192), _example(301, 384))
