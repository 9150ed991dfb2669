"""Measures the norms beside PyTorch's and beside the memory floor: ../norms.py."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from measured.report import write_report
from ssm_core.ops import gated_layer_norm, layer_norm, residual_layer_norm
from ssm_core.timing import copy_rate, machine, milliseconds
from ssm_train.apis.devices import usable_device
from ssm_train.runtime.files import check_file

STREAM = torch.float32

Inputs = tuple[Tensor, ...]  # x, residual or gate, weight, bias


def of_pytorch(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """What our models compute without the operator."""
    stream = residual + x
    return F.layer_norm(stream, weight.shape, weight, bias, 1e-5).to(x.dtype), stream


def of_ours(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the operator."""
    normed, stream = residual_layer_norm(x, residual, weight, bias)
    return normed, stream


def alone_of_pytorch(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
    """A norm without a residual, as that of a scan's result: computed in float32, as autocast does."""
    return (F.layer_norm(x.float(), weight.shape, weight, bias, 1e-5).to(x.dtype),)


def alone_of_ours(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
    """The same by the operator."""
    return (layer_norm(x, weight, bias),)


def gated_of_pytorch(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
    """A norm and the product with the SiLU of a gate, as in MambaTree's mixer."""
    return (F.layer_norm(x.float(), weight.shape, weight, bias, 1e-5).to(x.dtype) * F.silu(gate),)


def gated_of_ours(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
    """The same by the operator."""
    return (gated_layer_norm(x, gate, weight, bias),)


WAYS = {
    "residual": (of_pytorch, of_ours),
    "alone": (alone_of_pytorch, alone_of_ours),
    "gated": (gated_of_pytorch, gated_of_ours),
}


@dataclass
class Row:
    """One shape, in milliseconds."""

    norm: str
    shape: str
    step: str
    eager: float
    compiled: float | None  # by torch.compile
    ours: float
    floor: float


def floors(norm: str, elements: int, item: int, rate: float) -> dict[str, float]:
    """The floors of both steps. Backward reads the stream in place of the branch and the residual."""
    forward, backward = {
        "residual": (2 * item + 2 * STREAM.itemsize, 2 * item + 3 * STREAM.itemsize),
        "alone": (2 * item, 3 * item),
        "gated": (3 * item, 5 * item),
    }[norm]
    return {step: 1e3 * elements * size / rate for step, size in (("forward", forward), ("both", forward + backward))}


def measure(norm: str, shape: tuple[int, ...], options: argparse.Namespace, rate: float) -> list[Row]:
    """Time one shape."""
    x = torch.randn(shape, device=options.device, dtype=options.dtype).requires_grad_()
    of_second = STREAM if norm == "residual" else options.dtype
    residual = torch.randn(shape, device=options.device, dtype=of_second).requires_grad_()
    weight, bias = (torch.randn(shape[-1], device=options.device).requires_grad_() for _ in range(2))
    inputs = (x, residual, weight, bias)
    leaves = (x, weight, bias) if norm == "alone" else inputs
    pytorch, ours = WAYS[norm]
    times: dict[str, list[float]] = {"forward": [], "both": []}
    torch.compiler.reset()
    compiled = [] if options.no_compile else [torch.compile(pytorch, fullgraph=True, dynamic=False)]
    for function in (pytorch, *compiled, ours):
        upstream = [torch.randn_like(y) for y in function(*inputs)]

        def forward(function: Callable[..., Inputs] = function) -> None:
            with torch.no_grad():
                function(*inputs)

        def both(function: Callable[..., Inputs] = function, upstream: list[Tensor] = upstream) -> None:
            torch.autograd.grad(function(*inputs), leaves, upstream)

        times["forward"].append(milliseconds(forward, options.device, options.seconds).median)
        times["both"].append(milliseconds(both, options.device, options.seconds).median)
    floor = floors(norm, prod(shape), x.element_size(), rate)
    size = "x".join(map(str, shape))
    return [
        Row(norm, size, step, eager, compiled[0] if compiled else None, of_us, floor[step])
        for step, (eager, *compiled, of_us) in times.items()
    ]


def run(options: argparse.Namespace) -> list[Row]:
    """Measure, print a table, and return the rows.

    Args:
        options: of the command line.
    """
    options.device = usable_device(options.device).type
    options.dtype = getattr(torch, options.dtype or ("bfloat16" if options.device == "cuda" else "float32"))
    if options.json:
        check_file(options.json)
    torch.manual_seed(0)
    rate = copy_rate(options.device, options.seconds)
    about = machine(options.device) | {"dtype": str(options.dtype)[6:], "copy TB/s": f"{rate / 1e12:.2f}"}
    print(", ".join(f"{k} {v}" for k, v in about.items()), flush=True)
    print(f"{'norm':9} {'shape':16} {'step':8} {'eager':>9} {'compiled':>9} {'ours':>9} {'floor':>9}")
    rows = []
    for norm in WAYS:
        for size in options.shapes:
            for row in measure(norm, size, options, rate):
                rows.append(row)
                columns = (row.eager, row.compiled, row.ours, row.floor)
                times = " ".join(f"{'' if t is None else f'{t:.4f}':>9}" for t in columns)
                print(f"{row.norm:9} {row.shape:16} {row.step:8} {times}", flush=True)
    write_report(options.json, {"machine": about}, rows)
    return rows
