"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, normal

from . import conv_norm_gelu


def _inputs(side: int, channels: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (
        normal(generator, 2, 3, side, side + 2),
        normal(generator, channels, 3, 3, 3) * 0.2,
        normal(generator, channels),
        1 + 0.3 * normal(generator, channels),
        normal(generator, channels),
    )


def _call(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    images, weight, bias, norm_weight, norm_bias = inputs
    chosen: Backend = "auto" if backend == "cuda" else backend
    return conv_norm_gelu(images, weight, bias, norm_weight, norm_bias, 1e-6, chosen)


def _example(side: int, channels: int) -> Example:
    return Example(
        f"2 images of {side}×{side + 2}, {channels} channels", partial(_inputs, side, channels), _call, parameters=()
    )


# A row that can be read by 16 bytes, and one that cannot.
EXAMPLES = (_example(66, 40), _example(33, 64))
