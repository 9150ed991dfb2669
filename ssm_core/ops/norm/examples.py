"""Inputs on which ``tree-ssm doctor`` compares the kernels of this operator with its reference."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.example import Example, Results, normal, uniform

from . import gated_layer_norm, gated_rms_norm, layer_norm, residual_layer_norm, residual_rms_norm


def _inputs(batch: int, length: int, channels: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    x, residual = normal(generator, 2, batch, length, channels)
    return x, residual * 2 + 1, uniform(generator, batch), *normal(generator, 2, channels)


def _layer_norm(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    x, _, _, weight, bias = inputs
    return layer_norm(x, weight, bias, backend=backend)


def _gated(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    x, gate, _, weight, bias = inputs
    return gated_layer_norm(x, gate, weight, bias, backend=backend)


def _gated_root_mean_square(backend: Backend, inputs: tuple[Tensor, ...]) -> Tensor:
    x, gate, _, weight, _ = inputs
    return gated_rms_norm(x, gate, weight, backend=backend)


def _residual(backend: Backend, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, residual, scale, weight, bias = inputs
    return residual_layer_norm(x, residual, weight, bias, scale=scale, backend=backend)


def _root_mean_square(backend: Backend, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, residual, _, weight, _ = inputs
    return residual_rms_norm(x, residual, weight, backend=backend)


def _example(batch: int, length: int, channels: int) -> list[Example]:
    calls: dict[str, Callable[[Backend, tuple[Tensor, ...]], Results]] = {
        "layer norm": _layer_norm,
        "with a gate": _gated,
        "RMS norm with a gate": _gated_root_mean_square,
        "with a residual": _residual,
        "RMS norm with a residual": _root_mean_square,
    }
    return [
        Example(
            f"{batch}×{length} tokens, {channels} channels, {words}",
            partial(_inputs, batch, length, channels),
            call,
            parameters=(2, 3, 4),
        )
        for words, call in calls.items()
    ]


EXAMPLES = (*_example(2, 50, 37), *_example(2, 70, 96), *_example(5, 49, 1280))
