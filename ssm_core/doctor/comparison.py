"""Compares the kernels of an operator with its reference, by the rules of the tests (``ssm_core.testing``)."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend
from ssm_core.ops.checks import accumulate_dtype
from ssm_core.ops.example import Example
from ssm_core.testing import TOLERANCE, relative_error

_EXACT_TYPES = (torch.float64, torch.float32)  # their limits are in the table; half types are compared by their rule


@dataclass(frozen=True)
class Difference:
    """How far a kernel is from its reference.

    Attributes:
        error: relative error (see ``ssm_core.testing``), or for integers the share of elements that differ.
        allowed: its limit.
        where: the dtype and the sizes of the inputs.
    """

    error: float
    allowed: float
    where: str

    @property
    def excess(self) -> float:
        """The error as a multiple of its limit, infinite for NaN. The kernel is right up to 1."""
        if math.isnan(self.error):
            return math.inf
        if self.error == 0:
            return 0.0
        return self.error / self.allowed if self.allowed else math.inf


@dataclass(frozen=True)
class _Results:
    outputs: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]


def differences(example: Example, device: torch.device) -> Iterator[tuple[str, Difference]]:
    """Run an example with the compiled kernel, in every dtype.

    Args:
        example: the inputs and the call.
        device: where the kernel runs. The reference always runs on the CPU.

    Yields:
        ``"forward"`` or ``"backward"``, and the difference of an output or of a gradient.
    """
    for dtype in TOLERANCE:
        inputs = _inputs(example, dtype)
        if not any(x.is_floating_point() for x in inputs) and dtype is not torch.float64:
            return  # the inputs are the same for all dtypes
        actual = _run(example, device.type, [x.to(device) for x in inputs])  # type: ignore[arg-type]  # a Backend
        exact, same = _expected(example, torch.float64), _expected(example, dtype)
        where = f"{str(dtype).removeprefix('torch.')}, {example.sizes}"
        for name in ("outputs", "gradients"):
            for a, s, e in zip(*(getattr(r, name) for r in (actual, same, exact)), strict=True):
                yield "forward" if name == "outputs" else "backward", Difference(*_compare(a, s, e, dtype), where)


def _compare(actual: Tensor, same: Tensor, exact: Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """The error of a result and its limit."""
    if not exact.is_floating_point():
        return float((actual.cpu() != exact).double().mean()), 0.0
    if dtype in _EXACT_TYPES:
        return relative_error(actual, exact), TOLERANCE[dtype]
    # Kernels may keep what lies between two passes in the half type, also where the sum of it is in float32.
    return relative_error(actual, exact), 2 * relative_error(same, exact) + torch.finfo(dtype).eps


# A GPU is compared with the same numbers as the CPU, so these are computed once.
@functools.cache
def _expected(example: Example, dtype: torch.dtype) -> _Results:
    """What the reference gives. The values of the inputs are the same for all dtypes.

    One thread computes it. Its many small operations gain nothing from more threads, and on a busy machine these would
    mostly wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(example, "reference", _inputs(example, dtype))
    finally:
        torch.set_num_threads(threads)


def _inputs(example: Example, dtype: torch.dtype) -> list[Tensor]:
    """The inputs in a dtype, with values that all dtypes hold exactly."""
    inputs = []
    for place, x in enumerate(example.inputs(torch.Generator().manual_seed(0))):
        if x.is_floating_point():
            rounded = x.to(torch.bfloat16).to(torch.float16)
            inputs.append(rounded.to(accumulate_dtype(dtype) if place in example.parameters else dtype))
        else:
            inputs.append(x)
    return inputs


def _run(example: Example, backend: Backend, inputs: list[Tensor]) -> _Results:
    """The outputs, and the gradients of all real inputs for a fixed gradient of the outputs."""
    leaves = [x.requires_grad_(example.differentiable) if x.is_floating_point() else x for x in inputs]
    results = example.call(backend, tuple(leaves))
    outputs = (results,) if isinstance(results, Tensor) else tuple(results)
    if not example.differentiable:
        return _Results(outputs, ())
    # Small whole numbers, which every dtype holds exactly
    upstream = [torch.arange(y.numel(), device=y.device).remainder(7).sub(3).to(y.dtype).view(y.shape) for y in outputs]
    wanted = [x for x in leaves if x.is_floating_point()]
    gradients = torch.autograd.grad(outputs, wanted, upstream, materialize_grads=True)
    return _Results(tuple(y.detach() for y in outputs), gradients)
