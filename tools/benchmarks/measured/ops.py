"""Measures every operator's kernel beside its reference and beside the memory floor: ../ops.py."""

import argparse
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from measured.report import write_report
from measured.shapes import Shape
from quadtree_ssm.ops import quadtree_order
from quadtree_ssm.ops.quadtree_order import mask_gradient
from quadtree_ssm.ops.token_logits import token_logits
from ssm_core.errors import ConfigError
from ssm_core.ops import (
    conv_norm_gelu,
    depthwise_conv,
    directional_scan,
    gated_layer_norm,
    layer_norm,
    mlp,
    residual_layer_norm,
)
from ssm_core.ops.backend import Backend
from ssm_core.ops.checks import accumulate_dtype
from ssm_core.timing import copy_rate, machine, milliseconds
from ssm_core.writing import explained
from ssm_train.apis.devices import usable_device
from ssm_train.runtime.files import check_file
from tree_ssm.ops import (
    gated_state_readout,
    grid_distances,
    minimum_spanning_tree,
    selective_tree_scan,
    state_readout,
    subtree_scan,
    token_distances,
    token_edges,
    tree_scan,
)


@dataclass
class Case:
    """One operator at one shape: what to call for each backend, and the tensors it reads and writes."""

    run: Callable[[str], Tensor | tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]
    differentiable: tuple[Tensor, ...] = ()


def scan_case(shape: Shape, dtype: torch.dtype, device: str, directions: int) -> Case:
    """K directions over one input with one state, half of them reversed."""
    length, channels = shape.height * shape.width, shape.channels
    x = torch.randn(shape.batch, length, channels, dtype=dtype, device=device)
    delta = torch.randn(shape.batch, directions, length, channels, dtype=dtype, device=device) - 2
    A = -torch.rand(directions, channels, 1, device=device) - 0.1
    B, C = torch.randn(2, shape.batch, directions, length, 1, dtype=dtype, device=device)
    D = torch.ones(directions, channels, device=device)
    choice = torch.arange(shape.batch, device=device) % 4
    order = quadtree_order(choice, shape.height, shape.width)[:, None].expand(-1, directions, -1)
    reverse = [k % 2 == 1 for k in range(directions)]
    leaves = tuple(t.requires_grad_() for t in (x, delta, A, B, C, D))

    def run(backend: str) -> Tensor:
        return directional_scan(x, delta, A, B, C, D, D, order=order, reverse=reverse, backend=backend)

    return Case(run, (*leaves, order[:, 0]), leaves)


def tree_of(shape: Shape, device: str):
    """The spanning tree of random features on a grid, and the edge weights it was grown from."""
    edges = (shape.height - 1) * shape.width + shape.height * (shape.width - 1)
    weight = torch.rand(shape.batch, edges, device=device)
    return weight, minimum_spanning_tree(weight, shape.height, shape.width)


def spanning_tree_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """The minimum spanning tree of a grid, rooted and ordered."""
    weight, _ = tree_of(shape, device)

    def run(backend: str) -> tuple[Tensor, ...]:
        return tuple(minimum_spanning_tree(weight, shape.height, shape.width, backend=backend))

    return Case(run, (weight,))


def tree_scan_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """Both passes over the spanning tree."""
    _, tree = tree_of(shape, device)
    size = (shape.batch, shape.height * shape.width, shape.channels)
    u = torch.randn(size, dtype=dtype, device=device).requires_grad_()
    weight = torch.rand(size, dtype=dtype, device=device).requires_grad_()

    def run(backend: str) -> Tensor:
        return tree_scan(u, weight, tree, backend=backend)

    return Case(run, (u, weight, *tree), (u, weight))


def selective_tree_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """The same of a selective model of one state, from its inputs."""
    _, tree = tree_of(shape, device)
    length, channels = shape.height * shape.width, shape.channels
    x = torch.randn(shape.batch, length, channels, dtype=dtype, device=device)
    delta = torch.randn(shape.batch, length, channels, dtype=dtype, device=device) - 2
    wide = accumulate_dtype(dtype)
    A, bias = -torch.rand(channels, dtype=wide, device=device) - 0.1, torch.zeros(channels, dtype=wide, device=device)
    B = torch.randn(shape.batch, length, dtype=dtype, device=device)
    leaves = tuple(t.requires_grad_() for t in (x, delta, A, B, bias))

    def run(backend: str) -> Tensor:
        return selective_tree_scan(*leaves, tree, backend=backend)

    return Case(run, (*leaves, *tree), leaves)


def sequence_of(shape: Shape, dtype: torch.dtype, device: str, states: int = 16) -> tuple[Tensor, ...]:
    """x, delta, their bias, B and C of a prompt of H·W tokens, as in Mamba."""
    length, channels = shape.height * shape.width, shape.channels
    x, delta = torch.randn(2, shape.batch, length, channels, dtype=dtype, device=device)
    B, C = torch.randn(2, shape.batch, length, states, dtype=dtype, device=device)
    return x, delta - 2, torch.zeros(channels, dtype=accumulate_dtype(dtype), device=device), B, C


def subtree_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """A selective model of 16 states along the tree of a prompt, from the leaves to the root."""
    length, channels = shape.height * shape.width, shape.channels
    edges = token_edges(length, 3, device)
    weight = torch.rand(shape.batch, len(edges), device=device)
    tree = minimum_spanning_tree(weight, edges=edges, num_vertices=length, root=length - 1)
    x, delta, bias, B, C = sequence_of(shape, dtype, device)
    A = -torch.arange(1.0, B.shape[2] + 1, dtype=accumulate_dtype(dtype), device=device).repeat(channels, 1)
    leaves = tuple(t.requires_grad_() for t in (x, delta, A, B, C, bias))

    def run(backend: str) -> Tensor:
        return subtree_scan(*leaves, tree, True, backend)[0]

    return Case(run, (*leaves, *tree), leaves)


def sequence_tree_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """The minimum spanning tree of a prompt, from the edges between tokens at most three apart."""
    length = shape.height * shape.width
    edges = token_edges(length, 3, device)
    weight = torch.rand(shape.batch, len(edges), device=device)
    root = torch.full((shape.batch,), length - 1, device=device)

    def run(backend: str) -> tuple[Tensor, ...]:
        return tuple(minimum_spanning_tree(weight, edges=edges, num_vertices=length, root=root, backend=backend))

    return Case(run, (weight, edges))


def token_distance_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """Cosine distances between tokens of a prompt at most three apart."""
    x, delta, bias, B, _ = sequence_of(shape, dtype, device)
    start = torch.zeros(shape.batch, dtype=torch.int64, device=device)
    end = start + shape.height * shape.width

    def run(backend: str) -> Tensor:
        chosen = "reference" if backend == "cpu" else backend  # there is no kernel for the CPU
        return token_distances(x, delta, bias, B, start, end, backend=chosen)

    return Case(run, (x, delta, B))


def order_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """The quadtree order of every sample."""
    choice = torch.arange(shape.batch, device=device) % 4

    def run(backend: str) -> Tensor:
        return quadtree_order(choice, shape.height, shape.width, backend=backend)

    return Case(run, (choice,))


def mask_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """The gradient of the straight-through mask, at one end of the scan."""
    choice = torch.arange(shape.batch, device=device) % 4
    a, b = torch.randn(2, shape.batch, shape.height * shape.width, shape.channels, dtype=dtype, device=device)

    def run(backend: str) -> Tensor:
        return mask_gradient(a, b, choice, shape.height, shape.width, backend=backend)

    return Case(run, (a, b, choice))


def distance_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """Cosine distances along the edges of the grid."""
    x = torch.randn(shape.batch, shape.height, shape.width, shape.channels, dtype=dtype, device=device)
    return Case(lambda backend: grid_distances(x, backend=backend), (x,))


def readout_leaves(shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """State, input, output weights, weight of the skip, and weight and bias of the norm."""
    size = (shape.batch, shape.height * shape.width, shape.channels)
    h, x = torch.randn(2, *size, dtype=dtype, device=device)
    C = torch.randn(size[:2], dtype=dtype, device=device)
    D, weight, bias = torch.randn(3, shape.channels, dtype=accumulate_dtype(dtype), device=device)
    return tuple(t.detach().requires_grad_() for t in (h, x, C, D, weight, bias))


def readout_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """The normed state weighted, beside the skip."""
    leaves = readout_leaves(shape, dtype, device)
    return Case(lambda backend: state_readout(*leaves, backend=backend), leaves, leaves)


def gated_readout_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """The same, its layer norm, and the product with the SiLU of a gate."""
    gate, *parameters = norm_leaves(1, shape, dtype, device)
    leaves = (*readout_leaves(shape, dtype, device), gate.detach().flatten(1, 2).requires_grad_(), *parameters)
    return Case(lambda backend: gated_state_readout(*leaves, backend=backend), leaves, leaves)


def norm_leaves(maps: int, shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """Some maps, the weight and the bias."""
    given = torch.randn(maps, shape.batch, shape.height, shape.width, shape.channels, dtype=dtype, device=device)
    parameters = torch.randn(2, shape.channels, dtype=accumulate_dtype(dtype), device=device)
    return tuple(t.detach().requires_grad_() for t in (*given, *parameters))


def norm_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """A layer norm over the channels."""
    leaves = norm_leaves(1, shape, dtype, device)
    return Case(lambda backend: layer_norm(*leaves, backend=backend), leaves, leaves)


def gated_norm_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """A layer norm over the channels, times the SiLU of a gate."""
    leaves = norm_leaves(2, shape, dtype, device)
    return Case(lambda backend: gated_layer_norm(*leaves, backend=backend), leaves, leaves)


def residual_norm_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """A branch added to a residual stream of the same type, and the layer norm of the sum.

    The stream is not returned, since a case has one upstream gradient. It is written, too.
    """
    leaves = norm_leaves(2, shape, dtype, device)
    return Case(lambda backend: residual_layer_norm(*leaves, backend=backend).normed, leaves, leaves)


def convolution_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """A depthwise convolution 3×3 with a bias, and SiLU."""
    x = torch.randn(shape.batch, shape.height, shape.width, shape.channels, dtype=dtype, device=device)
    wide = accumulate_dtype(dtype)
    weight = torch.randn(shape.channels, 3, 3, dtype=wide, device=device)
    bias = torch.randn(shape.channels, dtype=wide, device=device)
    leaves = tuple(t.detach().requires_grad_() for t in (x, weight, bias))
    return Case(lambda backend: depthwise_conv(*leaves, backend=backend), leaves, leaves)


def kernel_or_layers(backend: str) -> Backend:
    """The backend of an operator whose kernel is for half types on GPUs alone; else it is PyTorch's layers."""
    return "reference" if backend == "reference" else "auto"


def stem_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """The first half of a stem, whose result has the shape. The images are float32, and have twice its sides."""
    channels, wide = shape.channels, accumulate_dtype(dtype)
    images = torch.randn(shape.batch, 3, 2 * shape.height, 2 * shape.width, dtype=wide, device=device)
    weight = torch.randn(channels, 3, 3, 3, dtype=dtype, device=device) * 0.2
    bias, norm_weight, norm_bias = torch.randn(3, channels, dtype=wide, device=device)
    leaves = tuple(t.detach().requires_grad_() for t in (weight, bias, norm_weight, norm_bias))
    return Case(
        lambda backend: conv_norm_gelu(images, *leaves, 1e-6, kernel_or_layers(backend)), (images, *leaves), leaves
    )


def mlp_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """Two layers with GELU between them; the hidden width is four times the tokens'."""
    channels, hidden = shape.channels, 4 * shape.channels
    x = torch.randn(shape.batch, shape.height, shape.width, channels, dtype=dtype, device=device)
    weight1 = torch.randn(hidden, channels, dtype=dtype, device=device) * channels**-0.5
    weight2 = torch.randn(channels, hidden, dtype=dtype, device=device) * hidden**-0.5
    wide = accumulate_dtype(dtype)
    bias1, bias2 = torch.randn(hidden, dtype=wide, device=device), torch.randn(channels, dtype=wide, device=device)
    leaves = tuple(t.detach().requires_grad_() for t in (x, weight1, bias1, weight2, bias2))
    return Case(lambda backend: mlp(*leaves, backend=kernel_or_layers(backend)), leaves, leaves)


def token_logits_case(shape: Shape, dtype: torch.dtype, device: str) -> Case:
    """The scores of QuadMamba's predictor: a norm and four layers, without gradients."""
    channels, wide = shape.channels, accumulate_dtype(dtype)
    x = torch.randn(shape.batch, shape.height, shape.width, channels, dtype=dtype, device=device)
    given = list(torch.randn(2, channels, dtype=wide, device=device))
    for wide_in, wide_out in ((channels, channels), (channels, channels // 2), (channels // 2, channels // 4)):
        given.append(torch.randn(wide_out, wide_in, dtype=dtype, device=device) * wide_in**-0.5)
        given.append(torch.randn(wide_out, dtype=wide, device=device))
    given += [torch.randn(channels // 4, dtype=wide, device=device), torch.randn((), dtype=wide, device=device)]
    return Case(lambda backend: token_logits(x, *given, backend=kernel_or_layers(backend)), (x, *given))


CASES: dict[str, Callable[[Shape, torch.dtype, str], Case]] = {
    "scan_2_directions": lambda *a: scan_case(*a, directions=2),
    "scan_4_directions": lambda *a: scan_case(*a, directions=4),
    "quadtree_order": order_case,
    "mask_gradient": mask_case,
    "grid_distances": distance_case,
    "spanning_tree": spanning_tree_case,
    "tree_scan": tree_scan_case,
    "selective_tree_scan": selective_tree_case,
    "state_readout": readout_case,
    "gated_state_readout": gated_readout_case,
    "depthwise_conv": convolution_case,
    "conv_norm_gelu": stem_case,
    "mlp": mlp_case,
    "token_logits": token_logits_case,
    "layer_norm": norm_case,
    "gated_norm": gated_norm_case,
    "residual_norm": residual_norm_case,
    "token_distances": token_distance_case,
    "sequence_tree": sequence_tree_case,
    "subtree_scan": subtree_case,
}


@dataclass
class Row:
    """One measurement; times in milliseconds, rates in GB/s."""

    op: str
    shape: str
    dtype: str
    step: str
    kernel_ms: float
    spread_ms: float
    floor_ms: float
    share_of_copy_rate: float
    reference_ms: float | None
    speedup: float | None


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all elements; an expanded tensor counts with the memory that it has."""
    return sum(t.untyped_storage().nbytes() if 0 in t.stride() else t.nbytes for t in tensors)


def measure(
    op: str, case: Case, shape: Shape, dtype: torch.dtype, device: str, options: argparse.Namespace, rate: float
):
    """Yield the forward row, and for differentiable operators the forward-and-backward row."""

    def forward(backend: str) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return case.run(backend)

        return run

    def training(backend: str) -> Callable[[], object]:
        upstream = torch.randn_like(case.run(backend))
        return lambda: torch.autograd.grad(case.run(backend), case.differentiable, upstream)

    output = forward(device)()
    outputs = output if isinstance(output, tuple) else (output,)
    moved = total_bytes(case.inputs) + total_bytes(outputs)
    steps = [("forward", forward, moved)]
    if case.differentiable:
        # The backward pass reads the inputs and the output's gradient and writes the inputs' gradients.
        again = total_bytes(case.inputs) + total_bytes(outputs) + total_bytes(case.differentiable)
        steps.append(("forward+backward", training, moved + again))
    for step, make, size in steps:
        kernel, spread = milliseconds(make(device), device, options.seconds)
        reference = None if options.no_reference else milliseconds(make("reference"), device, options.seconds)[0]
        floor = 1e3 * size / rate
        speedup = None if reference is None else reference / kernel
        yield Row(op, str(shape), str(dtype)[6:], step, kernel, spread, floor, floor / kernel, reference, speedup)


def of_operator(op: str, shape: Shape, dtype: torch.dtype, options: argparse.Namespace, rate: float) -> Iterator[Row]:
    """Measure one operator at one shape.

    Raises:
        ConfigError: the operator has no such shape or type.
    """
    try:
        yield from measure(op, CASES[op](shape, dtype, options.device), shape, dtype, options.device, options, rate)
    except ValueError as error:
        raise ConfigError(f"{op} cannot be measured at {shape} in {options.dtype}: {error}") from error


def plot_growth(rows: list[Row], about: dict[str, str], path: Path) -> None:
    """Draw the time of every operator over the tokens of a map, beside the slope of a linear cost."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    ops, steps = list(dict.fromkeys(row.op for row in rows)), list(dict.fromkeys(row.step for row in rows))
    colors = dict(zip(ops, colormaps["tab20"].colors, strict=False))
    figure = Figure(figsize=(4 * len(steps) + 2, 5), layout="constrained")
    grid = figure.subplots(1, len(steps), sharex=True, sharey=True, squeeze=False)[0]
    for axes, step in zip(grid, steps, strict=True):
        axes.set(xscale="log", yscale="log", title=step, xlabel="tokens of a map, H·W")
        for op in ops:
            points = [(Shape.parse(row.shape), row.kernel_ms) for row in rows if (row.op, row.step) == (op, step)]
            tokens = [shape.height * shape.width for shape, _ in points]
            axes.plot(tokens, [ms for _, ms in points], "o-", color=colors[op], label=op, markersize=4)
    low, high = grid[0].get_xlim()
    middle = (grid[0].get_ylim()[0] * grid[0].get_ylim()[1]) ** 0.5
    linear = [middle * x / (low * high) ** 0.5 for x in (low, high)]
    for axes in grid:
        axes.plot((low, high), linear, color="0.8", linewidth=6, zorder=0, label="linear in the tokens")
    grid[0].set_ylabel("kernel time, ms")
    figure.suptitle(f"{rows[0].dtype}, {about['device']}", fontsize="medium")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right center", fontsize="small", reverse=True)
    with explained(path):
        figure.savefig(path)


def run(options: argparse.Namespace) -> list[Row]:
    """Measure, print a table, and return the rows.

    Args:
        options: of the command line.

    Raises:
        ConfigError: see :func:`of_operator`.
    """
    options.device = usable_device(options.device).type
    for path in filter(None, (options.json, options.plot)):
        check_file(path)
    # An operator warns if it has no kernel and runs its reference, which must not be timed as the kernel.
    warnings.simplefilter("error", UserWarning)
    dtype = getattr(torch, options.dtype)
    rate = copy_rate(options.device, options.seconds)
    about = machine(options.device)
    print(", ".join(f"{k} {v}" for k, v in about.items()), f"· copy {rate / 1e9:.1f} GB/s")
    print(f"{'operator':22} {'BxHxWxD':>14} {'step':>16}", end=" ")
    print(f"{'kernel ms':>10} {'±':>7} {'floor ms':>9} {'reference ms':>13} {'speed-up':>8}")
    rows = []
    for shape in options.shapes:
        for op in options.ops:
            torch.manual_seed(0)
            for row in of_operator(op, shape, dtype, options, rate):
                rows.append(row)
                tail = f"{row.reference_ms:13.2f} {row.speedup:8.1f}" if row.reference_ms is not None else ""
                print(
                    f"{row.op:22} {row.shape:>14} {row.step:>16} {row.kernel_ms:10.3f} {row.spread_ms:7.3f} "
                    f"{row.floor_ms:9.3f} {tail}",
                    flush=True,
                )
    write_report(options.json, {"machine": about, "copy_bytes_per_second": rate}, rows)
    if options.plot:
        plot_growth(rows, about, options.plot)
    return rows
