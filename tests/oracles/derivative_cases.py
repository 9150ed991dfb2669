"""The operators of both families as functions of what they can be differentiated by, beside their definitions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from oracles.gated_readout import inputs as gated_readout_inputs
from oracles.norms import GATED, NORMS, RESIDUAL, norm_of
from oracles.norms import inputs as norm_inputs
from oracles.quadtree import literal_input, literal_output
from oracles.readout import inputs as readout_inputs
from oracles.sequences import scan_arguments
from oracles.trees import brute_force, inputs, random_parents, selective_arguments, stack
from torch import Tensor
from torch.nn import functional as F

from quadtree_ssm.ops import straight_through_input, straight_through_output
from quadtree_ssm.ops.quadtree_order import mask_gradient
from ssm_core.ops import depthwise_conv
from tree_ssm.ops import Tree, gated_state_readout, selective_tree_scan, state_readout, subtree_scan, tree_scan

# A path, a star, one vertex, and samples that differ.
TREES = {
    "one vertex": stack([[0]]),
    "path": stack([[1, 2, 3, 4, 4]]),
    "star": stack([[2] * 5]),
    "random": stack([random_parents(6, seed) for seed in range(2)]),
}


@dataclass(frozen=True)
class Case:
    """An operator, what it is, and where to differentiate it.

    Attributes:
        function: the operator; takes a device and a backend, and returns a function of the arguments.
        definition: the same function of the arguments, in loops and PyTorch's operators.
        arguments: where to differentiate, in float64.
        in_dims: which arguments torch.vmap maps over, and where.
    """

    function: Callable[[str, str], Callable[..., Tensor | tuple[Tensor, ...]]]
    definition: Callable[..., Tensor | tuple[Tensor, ...]]
    arguments: Sequence[Tensor]
    in_dims: Sequence[tuple[int | None, ...]] = field(default_factory=tuple)


def on(tree, device):
    return Tree(*(x.to(device) for x in tree))


def _tree_scan(tree, direction):
    return Case(
        lambda device, backend: partial(tree_scan, tree=on(tree, device), direction=direction, backend=backend),
        partial(brute_force, tree=tree, direction=direction),
        [x.detach() for x in inputs(tree, 2)],
        [(0, 0), (2, None), (None, 1)],
    )


def _selective_tree_scan(tree):
    def definition(x, delta, A, B, bias):
        step = torch.log1p(torch.exp(delta + bias))
        return brute_force(step * B.unsqueeze(-1) * x, torch.exp(step * A), tree, "both")

    return Case(
        lambda device, backend: partial(selective_tree_scan, tree=on(tree, device), backend=backend),
        definition,
        [x.detach() for x in selective_arguments(tree, 2)],
        [(0, 1, 0, 0, 1), (0, 0, None, 0, None), (0, None, None, None, None)],
    )


def subtree_definition(values, tree, next_step):
    """Return y and the root's state of the subtree scan, computed as a dense sum over all pairs of vertices."""
    x, delta, A, B, C, bias = values
    step = torch.log1p(torch.exp(delta + bias))
    of_edge = torch.cat([step[:, 1:], step[:, :1]], dim=1) if next_step else step
    source = (step * x).unsqueeze(-1) * B.unsqueeze(2)
    weight = torch.exp(of_edge.unsqueeze(-1) * A)
    h = brute_force(source.flatten(2), weight.flatten(2), tree, "up").unflatten(2, A.shape)
    return (h * C.unsqueeze(2)).sum(-1), torch.stack([row[r] for row, r in zip(h, tree.order[:, 0], strict=True)])


def _subtree_scan(tree, next_step):
    return Case(
        lambda device, backend: partial(subtree_scan, tree=on(tree, device), next_step=next_step, backend=backend),
        lambda *values: subtree_definition(values, tree, next_step),
        [x.detach() for x in scan_arguments(tree, 2, 2)],
        [(0, 1, 0, 0, 2, 1), (0, 0, None, 0, 0, None), (None, None, None, None, 0, None)],
    )


def _normed(x, weight, bias):
    mean = sum(x.unbind(-1)) / x.shape[-1]
    deviation = (sum((v - mean) ** 2 for v in x.unbind(-1)) / x.shape[-1] + 0.1).sqrt()
    return torch.stack([(v - mean) / deviation for v in x.unbind(-1)], dim=-1) * weight + bias


def _readout(h, x, C, D, weight, bias):
    return C.unsqueeze(-1) * _normed(h, weight, bias) + D * x


def _state_readout():
    return Case(
        lambda device, backend: partial(state_readout, eps=0.1, backend=backend),
        _readout,
        readout_inputs((2, 3, 4)),
        [(0, 1, 2, 0, 1, 0), (0, 0, 0, None, None, None), (None, None, None, 0, None, None)],
    )


def _gated_state_readout():
    def definition(*values):
        *of_readout, gate, out_weight, out_bias = values
        return _normed(_readout(*of_readout), out_weight, out_bias) * gate / (1 + (-gate).exp())

    return Case(
        lambda device, backend: partial(gated_state_readout, eps=0.1, out_eps=0.1, backend=backend),
        definition,
        gated_readout_inputs((2, 3, 4)),
        [(0, 1, 2, 0, 1, 0, 2, 1, 0), (0, 0, 0, *(None,) * 3, 1, None, None), (*(None,) * 6, 2, None, None)],
    )


def _norm(name):
    def definition(x, residual, scale, weight, bias):
        stream = residual + scale.reshape(-1, 1, 1) * x if name in RESIDUAL else x
        row = stream.unbind(-1)
        mean = sum(row) / len(row) if "layer" in name else torch.zeros_like(row[0])
        root = (sum((v - mean) ** 2 for v in row) / len(row) + 0.1).sqrt()
        normed = torch.stack([(v - mean) / root for v in row], dim=-1) * weight
        y = normed + bias if "layer" in name else normed
        if name in GATED:
            y = y * residual / (1 + (-residual).exp())
        return (y, stream) if name in RESIDUAL else y

    # What a norm does not take is not differentiated.
    takes = [True, name in RESIDUAL + GATED, name in RESIDUAL, True, "layer" in name]
    every = norm_inputs((2, 3, 4))

    def of_taken(function, *given):
        values = iter(given)
        return function(
            *(next(values) if take else x.to(given[0].device) for take, x in zip(takes, every, strict=True))
        )

    def chosen(values):
        return tuple(v for take, v in zip(takes, values, strict=True) if take)

    return Case(
        lambda device, backend: partial(of_taken, norm_of(name, eps=0.1, backend=backend)),
        partial(of_taken, definition),
        chosen(every),
        [chosen(dims) for dims in ((0, 1, 0, 1, 0), (0, 0, 0, None, None), (2, None, None, None, None))],
    )


def _depthwise_conv():
    def definition(x, weight, bias):
        p = F.conv2d(x.permute(0, 3, 1, 2), weight.unsqueeze(1), bias, padding=1, groups=x.shape[-1])
        return (p / (1 + torch.exp(-p))).permute(0, 2, 3, 1)

    return Case(
        lambda device, backend: partial(depthwise_conv, backend=backend),
        definition,
        [torch.randn(size, dtype=torch.float64) for size in ((2, 3, 2, 2), (2, 3, 3), (2,))],
        [(0, 1, 0), (4, None, None), (None, 3, None), (1, None, 1)],
    )


def _straight_through(function, definition):
    """The mask is the hard one-hot vector of the choice, and its derivatives are those of a soft one."""
    choice, geometry = torch.tensor([0, 3]), (5, 7, (1, 0))
    hard = F.one_hot(choice, 4).double()

    def with_soft_mask(of, device, x, soft):
        return of(x, hard.to(device) + soft - soft.detach(), choice.to(device), *geometry)

    return Case(
        lambda device, backend: partial(with_soft_mask, function, device),
        partial(with_soft_mask, definition, "cpu"),
        [torch.randn(2, 35, 1, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)],
        [(0, 0), (1, None), (None, 2)],
    )


def _mask_gradient():
    choice, geometry = torch.tensor([0, 3]), (5, 7, (1, 0))

    def definition(a, b):  # the derivative of the output by the mask, which it is linear in
        hard = F.one_hot(choice, 4).double()
        units = torch.eye(4, dtype=torch.float64)

        def output(mask):
            return literal_output(b, mask, choice, *geometry)

        return torch.stack([(a * (output(hard + unit) - output(hard))).sum((1, 2)) for unit in units], dim=1)

    return Case(
        lambda device, backend: lambda a, b: mask_gradient(a, b, choice.to(device), *geometry, backend=backend),
        definition,
        list(torch.randn(2, 2, 35, 1, dtype=torch.float64)),
        [(0, 0), (2, None)],
    )


def cases():
    """Return all cases by name, with the same arguments in every call."""
    torch.manual_seed(0)
    found = {"state_readout": _state_readout(), "mask_gradient": _mask_gradient()}
    found["depthwise_conv"] = _depthwise_conv()
    found.update({name: _norm(name) for name in NORMS})
    found["straight_through_input"] = _straight_through(straight_through_input, literal_input)
    found["straight_through_output"] = _straight_through(straight_through_output, literal_output)
    for name, tree in TREES.items():
        for direction in ("both", "up"):
            found[f"tree_scan, {direction}, {name}"] = _tree_scan(tree, direction)
        found[f"selective_tree_scan, {name}"] = _selective_tree_scan(tree)
        for next_step in (False, True):
            found[f"subtree_scan, {'next' if next_step else 'own'} step, {name}"] = _subtree_scan(tree, next_step)
    found["gated_state_readout"] = _gated_state_readout()
    return found
