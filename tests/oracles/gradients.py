"""Computes a function's results with their gradients, which the tests of every operator compare."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def with_gradients(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    upstream: Tensor | Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    """Return the results of ``function``, followed by a gradient for each input.

    Args:
        function: gives a tensor, or a tuple of tensors.
        inputs: tensors. Each gets a gradient, which is zero if the results do not depend on it.
        upstream: the gradient of the result, or of each of several results. None stands for a result that is not used.
    """
    leaves = [x.detach().requires_grad_() for x in inputs]
    results = function(*leaves)
    results = (results,) if isinstance(results, Tensor) else results
    upstream = (upstream,) if isinstance(upstream, Tensor) else upstream
    used = [(y, g) for y, g in zip(results, upstream, strict=True) if g is not None]
    outputs, gradients = zip(*used, strict=True)
    found = torch.autograd.grad(outputs, leaves, gradients, materialize_grads=True)
    return (*(y.detach() for y in results), *found)
