"""Runs the operators' ONNX forms in onnxruntime and compares them with the kernels. Every size is a free axis."""

import importlib

import onnxruntime
import pytest
import torch
from oracles.grid import num_edges
from torch import nn
from torch.export import Dim

from quadtree_ssm.ops import quadtree_order
from ssm_core.ops import (
    depthwise_conv,
    gated_layer_norm,
    gated_rms_norm,
    layer_norm,
    residual_layer_norm,
    residual_rms_norm,
    rms_norm,
)
from ssm_core.ops.registry import onnx_translations
from tree_ssm.ops import gated_state_readout, grid_distances, minimum_spanning_tree, tree_scan

FREE = Dim.DYNAMIC


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def convert(function, inputs, free, threads=0):
    """Export ``function`` and return a call that runs it in onnxruntime.

    Args:
        function: takes tensors and returns tensors.
        inputs: example inputs for the export.
        free: the free axes of each input.
        threads: how many run an operator; 0 for as many as there are cores.
    """
    shapes = (tuple(dict.fromkeys(axes, FREE) for axes in free),)
    program = torch.onnx.export(
        Function(function).eval(),
        inputs,
        dynamo=True,
        custom_translation_table=onnx_translations(),
        dynamic_shapes=shapes,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    names = [value.name for value in session.get_inputs()]

    def run(*values):
        given = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return [torch.from_numpy(result) for result in session.run(None, given)]

    return run


def test_spanning_tree():
    """Trees and breadth-first orders are exactly equal, even where many weights are equal."""

    def grow(edge_weight, grid, root):
        tree = minimum_spanning_tree(edge_weight, *grid.shape, root=root)
        return tree.parent, tree.order

    run = convert(
        grow, (torch.rand(2, num_edges(5, 6)), torch.zeros(5, 6), torch.tensor([0, 7])), [(0, 1), (0, 1), (0,)]
    )
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in ((2, 5, 6), (3, 2, 2), (1, 17, 9), (2, 1, 5), (1, 4, 1), (1, 30, 31)):
        weight, grid = torch.randn(batch, num_edges(height, width), generator=generator), torch.zeros(height, width)
        for weights in (weight, weight.round(), torch.zeros_like(weight)):
            root = torch.randint(height * width, (batch,), generator=generator)
            pairs = zip(grow(weights, grid, root), run(weights, grid, root), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_grid_distances():
    run = convert(grid_distances, (torch.randn(2, 5, 6, 3),), [(0, 1, 2)])
    for shape in ((2, 5, 6, 3), (1, 1, 4, 3), (1, 7, 1, 3)):
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        x[:, 0, 0] = 0
        torch.testing.assert_close(run(x)[0], grid_distances(x))


def test_quadtree_order():
    """One order has two levels and a shift, and the other has one level and no shift."""

    def order(choice, x):
        height, width = x.shape
        shifted = quadtree_order(choice, height, width, shift=(height // 8, -(height // 8)))
        return shifted, quadtree_order(choice, height, width, levels=1)

    run = convert(order, (torch.tensor([0, 1, 3]), torch.zeros(17, 18)), [(0,), (0, 1)])
    for height, width in ((17, 18), (2, 2), (7, 9), (24, 16)):
        choice, x = torch.tensor([3, 0, 2, 1]), torch.zeros(height, width)
        assert all(torch.equal(a, b) for a, b in zip(order(choice, x), run(choice, x), strict=True))


def test_tree_scan():
    """Both passes run, then the first pass alone. The trees have random weights, or are a path, the deepest tree."""

    def scan(u, weight, parent):
        return tuple(torch.ops.tree_ssm.tree_scan(u, weight, parent, parent, both) for both in (True, False))

    def example(batch, height, width):
        edges = torch.rand(batch, (height - 1) * width + height * (width - 1), generator=generator)
        tree = minimum_spanning_tree(edges, height, width)
        u, weight = (torch.rand(batch, height * width, 4, generator=generator) for _ in range(2))
        return u, weight, tree

    generator = torch.Generator().manual_seed(0)
    u, weight, tree = example(2, 6, 7)
    run = convert(scan, (u, weight, tree.parent), [(0, 1)] * 3)
    for size in ((2, 6, 7), (3, 1, 40), (1, 1, 1), (1, 20, 21)):
        u, weight, tree = example(*size)
        both, up = run(u, weight, tree.parent)
        torch.testing.assert_close(both, tree_scan(u, weight, tree))
        torch.testing.assert_close(up, tree_scan(u, weight, tree, "up"))


def test_tree_scan_in_several_threads():
    """No addition is lost, however many children a vertex has. Maps are as large as those that are cut for threads."""

    def scan(u, weight, parent):
        return (torch.ops.tree_ssm.tree_scan(u, weight, parent, parent, True),)

    generator = torch.Generator().manual_seed(0)
    length, channels = 128 * 160, 64
    grid = minimum_spanning_tree(torch.rand(1, 127 * 160 + 128 * 159, generator=generator), 128, 160)
    breadth = torch.arange(length).unsqueeze(0)
    star, wide = torch.zeros_like(breadth), (breadth - 1).clamp(min=0) // 50
    u, weight = (torch.rand(1, length, channels, generator=generator) for _ in range(2))
    run = convert(scan, (u[:, :6], weight[:, :6], star[:, :6]), [(0, 1)] * 3, threads=4)
    for parent, order in ((grid.parent, grid.order), (star, breadth), (wide, breadth)):
        expected = torch.ops.tree_ssm.tree_scan(u.double(), weight.double(), parent, order, True).float()
        first = run(u, weight, parent)[0]
        torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-5)
        assert all(torch.equal(run(u, weight, parent)[0], first) for _ in range(8))


@pytest.mark.parametrize(("directions", "states"), [(2, 1), (4, 3)])
def test_selective_scan(directions, states):
    """Some lengths fill the chunks and some do not. Some directions share an input."""
    reverse = [k % 2 == 1 for k in range(directions)]

    def scan(u, delta, A, B, C, D, bias, order):
        return torch.ops.ssm_core.selective_scan(u, delta, A, B, C, D, bias, order, reverse, True)

    def example(batch, length):
        def draw(*shape):
            return torch.randn(*shape, generator=generator)

        order = torch.stack([torch.randperm(length, generator=generator) for _ in range(batch * directions)])
        inputs = draw(batch, directions // 2, length, 5), draw(batch, directions, length, 5)
        weights = (draw(batch, directions, length, states) for _ in range(2))
        skips = (draw(directions, 5) for _ in range(2))
        return (*inputs, -draw(directions, 5, states).exp(), *weights, *skips, order.view(batch, directions, length))

    generator = torch.Generator().manual_seed(0)
    free = [(0, 2), (0, 2), (), (0, 2), (0, 2), (), (), (0, 2)]
    run = convert(scan, example(2, 10), free)
    for batch, length in ((2, 10), (1, 1), (3, 77), (1, 16), (1, 400)):
        inputs = example(batch, length)
        for expected, found in zip(scan(*inputs), run(*inputs), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_softplus():
    """Small results keep their digits. The second call has its own slope and threshold."""

    def both(x):
        return torch.nn.functional.softplus(x), torch.nn.functional.softplus(x, beta=2, threshold=3)

    x = torch.linspace(-40, 40, 4001)  # the results are above the subnormal numbers
    for expected, found in zip(both(x.double()), convert(both, (x[:5],), [(0,)])(x), strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=0)


def test_log_sigmoid():
    """Confident scores differ, too, down to the subnormal numbers."""
    x = torch.cat([torch.linspace(-40, 80, 4001), torch.tensor([-500.0, -100.0, -88.0])])
    (found,) = convert(torch.nn.functional.logsigmoid, (x[:5],), [(0,)])(x)
    torch.testing.assert_close(found, torch.nn.functional.logsigmoid(x.double()).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_norms(dtype):
    """The six norms, with the stream in float32 and the branch in another type."""

    def norms(x, residual, scale, weight, bias):
        return (
            layer_norm(x, weight, bias, dtype=torch.float32),
            rms_norm(x, weight, eps=0.5),
            gated_layer_norm(x, residual.to(x.dtype), weight, bias),
            gated_rms_norm(x, residual, weight, eps=0.5),
            *residual_layer_norm(x, residual, weight, bias, scale=scale),
            *residual_rms_norm(x, residual, weight, eps=0.5),
        )

    def example(batch, length):
        x, residual = torch.randn(2, batch, length, 6, generator=generator)
        return x.to(dtype), residual, *(torch.randn(n, generator=generator) for n in (batch, 6, 6))

    generator = torch.Generator().manual_seed(0)
    run = convert(norms, example(2, 5), [(0, 1), (0, 1), (0,), (), ()])
    for size in ((2, 5), (1, 1), (3, 8)):
        inputs = example(*size)
        for expected, found in zip(norms(*inputs), run(*inputs), strict=True):
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected)


def test_gated_state_readout():
    def example(batch, length):
        maps = (torch.randn(batch, length, *width, generator=generator) for width in ((6,), (6,), (), (6,)))
        return (*maps, *torch.randn(5, 6, generator=generator))

    def readout(h, x, C, gate, D, weight, bias, out_weight, out_bias):
        return gated_state_readout(h, x, C, D, weight, bias, gate, out_weight, out_bias, out_eps=0.5)

    generator = torch.Generator().manual_seed(0)
    run = convert(readout, example(2, 5), [(0, 1)] * 4 + [()] * 5)
    for size in ((2, 5), (1, 1), (3, 8)):
        inputs = example(*size)
        torch.testing.assert_close(run(*inputs)[0], readout(*inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
def test_depthwise_conv(with_bias, dtype):
    """The kernel is float32 beside a map of a half type."""

    def example(batch, height, width):
        return (torch.randn(batch, height, width, 6, generator=generator).to(dtype), *parameters)

    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(6, 3, 3, generator=generator), torch.randn(6, generator=generator)
    parameters = parameters[: 1 + with_bias]
    run = convert(depthwise_conv, example(2, 5, 4), [(0, 1, 2), *((),) * len(parameters)])
    for size in ((2, 5, 4), (1, 2, 2), (3, 8, 9)):
        inputs = example(*size)
        (found,) = run(*inputs)
        assert found.dtype == dtype
        torch.testing.assert_close(found, depthwise_conv(*inputs))


def test_lists_of_edges_have_no_form():
    module = importlib.import_module("tree_ssm.ops.spanning_tree.to_onnx")
    with pytest.raises(NotImplementedError, match="for grids alone"):
        module.minimum_spanning_tree(None, torch.zeros(1, 2), 2, 1, None)
