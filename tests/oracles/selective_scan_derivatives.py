"""The selective scan as functions of what it can be differentiated by, beside its definition in loops."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from oracles.selective_scans import make_inputs, make_order
from torch import Tensor

from ssm_core.ops import directional_scan, selective_scan


def loop(u, delta, A, B, C, D=None, bias=None, *, softplus=True, steps=None):
    """Scan u, delta ``[L, D]`` of one sample with B, C ``[L, N]``, one step after another.

    Returns:
        y ``[L, D]`` at the tokens' places, and the last state ``[D, N]``.
    """
    h, outputs = torch.zeros_like(A), {}
    for t in range(len(u)) if steps is None else steps:
        step = delta[t] if bias is None else delta[t] + bias
        step = torch.log1p(torch.exp(step)) if softplus else step
        h = torch.exp(step[:, None] * A) * h + (step * u[t])[:, None] * B[t]
        outputs[t] = (h * C[t]).sum(1) if D is None else (h * C[t]).sum(1) + D * u[t]
    return torch.stack([outputs[t] for t in range(len(u))]), h


@dataclass(frozen=True)
class Case:
    """The scan with some options.

    Attributes:
        function: takes a device and a backend, and returns a function of the arguments.
        definition: the same function of the arguments, in loops and PyTorch's operators.
        arguments: where to differentiate, in float64.
    """

    function: Callable[[str, str], Callable[..., Tensor | tuple[Tensor, ...]]]
    definition: Callable[..., Tensor | tuple[Tensor, ...]]
    arguments: Sequence[Tensor]


def _directions(states: int, ordered: bool, parameters: bool, length: int = 4) -> Case:
    order = make_order(2, 2, length) if ordered else None
    reverse = (False, True) if ordered else (False, False)
    visits = None if order is None else order.tolist()

    def function(device, backend):
        there = None if order is None else order.to(device)
        return lambda *args: directional_scan(*args, order=there, reverse=reverse, backend=backend)

    def definition(x, delta, A, B, C, D=None, bias=None):
        samples = []
        for b in range(len(x)):
            y = torch.zeros_like(x[b])
            for k in range(2):
                steps = None if visits is None else visits[b][k][::-1] if reverse[k] else visits[b][k]
                rest = (None, None) if D is None else (D[k], bias[k])
                y = y + loop(x[b], delta[b, k], A[k], B[b, k], C[b, k], *rest, steps=steps)[0]
            samples.append(y)
        return torch.stack(samples)

    inputs = make_inputs(2, length, 2, 2, states, grad=False)
    return Case(function, definition, inputs if parameters else inputs[:5])


def _mamba(softplus: bool, form: str, reverse: bool = False, gated: bool = True) -> Case:
    batch, channels, states, length, groups = 2, 4, 2, 3, 2

    def function(device, backend):
        return lambda u, delta, A, B, C, D, bias, z=None: selective_scan(
            u, delta, A, B, C, D, z, bias, softplus, True, reverse=reverse, backend=backend
        )

    def definition(u, delta, A, B, C, D, bias, z=None):
        outputs, states = [], []
        steps = range(length)[::-1] if reverse else None
        for b in range(batch):
            ys, lasts = [], []
            for d in range(channels):
                weights = [
                    x[d].expand(length, -1) if x.dim() == 2 else (x[b] if x.dim() == 3 else x[b, d // groups]).mT
                    for x in (B, C)
                ]
                own = slice(d, d + 1)
                y, last = loop(
                    u[b, own].mT, delta[b, own].mT, A[own], *weights, D[own], bias[own], softplus=softplus, steps=steps
                )
                ys.append(y[:, 0])
                lasts.append(last[0])
            outputs.append(torch.stack(ys))
            states.append(torch.stack(lasts))
        y = torch.stack(outputs)
        return (y if z is None else y * F.silu(z)), torch.stack(states)

    shape = {
        "one group": (batch, states, length),
        "groups": (batch, groups, states, length),
        "constant": (channels, states),
    }[form]
    u, z = torch.randn(2, batch, channels, length, dtype=torch.float64)
    delta = torch.rand(batch, channels, length, dtype=torch.float64)
    A = -torch.rand(channels, states, dtype=torch.float64) - 0.1
    B, C = torch.randn(2, *shape, dtype=torch.float64)
    D, bias = torch.randn(2, channels, dtype=torch.float64) * 0.3
    return Case(function, definition, [u, delta, A, B, C, D, bias, *([z] if gated else [])])


CASES = {
    "two directions": lambda: _directions(2, ordered=False, parameters=True),
    "one state, any order, reverse": lambda: _directions(1, ordered=True, parameters=True),
    "any order, reverse, no D and bias": lambda: _directions(2, ordered=True, parameters=False),
    "one token": lambda: _directions(2, ordered=True, parameters=True, length=1),
    "mamba, last state, gate": lambda: _mamba(True, "one group"),
    "mamba, last state, groups, no softplus": lambda: _mamba(False, "groups", gated=False),
    "mamba, last state, constant weights, reverse": lambda: _mamba(True, "constant", reverse=True),
}
