"""For every operator of the compiled library: right arguments, and what the result has to be.

An expectation is computed from the arguments that the call was made with, on the CPU and in float64. It raises
ValueError for arguments that have no right result: a kernel that can look at the values must have refused them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from quadtree_ssm.ops.quadtree_order.reference import mask_gradient_reference, quadtree_order_reference
from ssm_core.ops.norm import gated_norm_reference, norm_reference, residual_norm_reference
from ssm_core.ops.selective_scan.reference import selective_scan_reference
from tree_ssm.ops import Tree
from tree_ssm.ops.gated_state_readout.reference import gated_state_readout_reference
from tree_ssm.ops.grid_distance.reference import grid_distances_reference
from tree_ssm.ops.selective_tree_scan.reference import source_and_weight
from tree_ssm.ops.spanning_tree.reference import minimum_spanning_tree_reference
from tree_ssm.ops.state_readout.reference import state_readout_reference
from tree_ssm.ops.subtree_scan.reference import subtree_scan_reference
from tree_ssm.ops.token_distance.reference import token_distances_reference
from tree_ssm.ops.tree_scan.reference import tree_scan_reference

from .calls import Call, gradients_of
from .drawing import Draw
from .layers import (
    draw_conv_norm_gelu,
    draw_conv_norm_gelu_backward,
    draw_depthwise_conv,
    draw_depthwise_conv_backward,
    draw_depthwise_conv_sum_backward,
    draw_mlp,
    draw_mlp_backward,
    draw_token_logits,
)


def _selective_scan(draw: Draw) -> Call:
    softplus, delta, bias = draw.chance(0.7), draw.normal("BKLD"), draw.normal("KD", draw.wide)
    if not softplus and not draw.odd:  # a scan with negative steps grows beyond all numbers
        delta, bias = delta.abs(), bias.abs()
    arguments = [
        draw.normal("BGLD"), delta, -draw.normal("KDN", draw.wide).abs(), draw.normal("BKLN"),
        draw.normal("BKLN"), draw.maybe(draw.normal("KD", draw.wide)), draw.maybe(bias),
        draw.maybe(draw.permutations("BKL")), _flags(draw), softplus,
    ]  # fmt: skip
    return Call(arguments, _expect_selective_scan)


def _flags(draw: Draw) -> list[bool]:
    return [draw.chance(0.5) for _ in range(draw.size["K"] if draw.size["K"] < 100 else 1)]


def _expect_selective_scan(u, delta, A, B, C, D, delta_bias, order, reverse, softplus):
    if order is not None and not torch.equal(order.sort(-1).values, torch.arange(u.shape[2]).expand_as(order)):
        raise ValueError("the order is no permutation")
    return selective_scan_reference(u, delta, A, B, C, D, delta_bias, order, reverse, softplus)


def _selective_scan_backward(draw: Draw) -> Call:
    upstream = [draw.normal("BGLD"), draw.maybe(draw.normal("BKDN", draw.wide))]

    def expected(grad_y, grad_last, u, delta, A, B, C, D, delta_bias, order, reverse, softplus):
        D = A.new_zeros(A.shape[:2]) if D is None else D
        delta_bias = A.new_zeros(A.shape[:2]) if delta_bias is None else delta_bias
        return gradients_of(
            lambda *inputs: _expect_selective_scan(*inputs, order, reverse, softplus),
            (u, delta, A, B, C, D, delta_bias),
            (grad_y, grad_last),
        )

    return Call([*upstream, *_selective_scan(draw).arguments], expected)


def _linear_recurrence(draw: Draw) -> Call:
    def expected(decay, drive, transposed):
        if decay.shape != drive.shape or drive.shape[2] == 0:
            raise ValueError("decay and drive are not alike, or have no step")
        decays, drives = decay.unbind(2), drive.unbind(2)
        if transposed:  # the edge above a step is that of the step after it
            decays, drives = (decays[0], *reversed(decays[1:])), tuple(reversed(drives))
        states = [drives[0]]
        for a, x in zip(decays[1:], drives[1:], strict=True):
            states.append(a * states[-1] + x)
        return [torch.stack(states[::-1] if transposed else states, dim=2)]

    decay = draw.normal("BKLDN").sigmoid()
    return Call([decay, draw.normal("BKLDN"), draw.chance(0.5)], expected)


def _quadtree_order(draw: Draw) -> Call:
    def expected(choice, height, width, levels, shift_y, shift_x):
        _check_choice(choice)
        return [quadtree_order_reference(choice, height, width, levels, (shift_y % height, shift_x % width))]

    height, width = draw.shape("HW")
    arguments = [draw.integers(0, 4, "B"), height, width, draw.random.randrange(3), *_shift(draw)]
    return Call(arguments, expected)


def _shift(draw: Draw) -> tuple[int, int]:
    return draw.random.randrange(-9, 9), draw.random.randrange(-9, 9)


def _check_choice(choice: Tensor) -> None:
    if choice.numel() and not (int(choice.min()) >= 0 and int(choice.max()) < 4):
        raise ValueError("a choice is no quadrant")


def _mask_gradient(draw: Draw) -> Call:
    def expected(a, b, choice, height, width, shift_y, shift_x):
        _check_choice(choice)
        return [mask_gradient_reference(a, b, choice, height, width, (shift_y % height, shift_x % width))]

    height, width = draw.shape("HW")
    arguments = [draw.normal("BTD"), draw.normal("BTD"), draw.integers(0, 4, "B"), height, width, *_shift(draw)]
    return Call(arguments, expected)


def _spanning_tree(draw: Draw, height: int | None = None, edges: Tensor | None = None) -> Call:
    def expected(edge_weight, edges, height, width, root):
        try:
            parent, order = minimum_spanning_tree_reference(edge_weight, edges, height, width, root)
        except ValueError:  # a fault, which is one of the results
            return None
        return [parent, order, root.new_zeros(root.shape[0], 2)]

    batch, height, width, length = draw.shape("BHWL")
    if draw.chance(0.5):
        count = max((height - 1) * width + height * (width - 1), 0)
        if count < 2**15:
            draw.size["E"] = count
            root = draw.integers(0, min(height * width, 2**30), "B")
            return Call([draw.normal("BE"), None, height, width, root], expected)
        height = width = 2
    length = min(length, 700)
    parent = torch.tensor([draw.random.randrange(max(v, 1)) for v in range(length)], dtype=torch.int64)
    edges = torch.stack([parent, torch.arange(length)], dim=1)  # the first is an edge from vertex 0 to itself
    if draw.chance(0.5):
        more = torch.randint(max(length, 1), (length, 2), generator=draw.generator)
        edges = torch.cat([edges, more])[torch.randperm(2 * length, generator=draw.generator)]
    edges = edges.to(draw.device)
    if draw.chance(0.5) and batch < 100:
        edges = edges.expand(batch, -1, -1)
    draw.size["E"] = edges.shape[-2]
    return Call([draw.normal("BE"), edges, length, 1, draw.integers(0, length, "B")], expected)


def _minimum_spanning_tree(draw: Draw) -> Call:
    return Call(_spanning_tree(draw).arguments, lambda *arguments: minimum_spanning_tree_reference(*arguments))


def _tree_schedule(draw: Draw) -> Call:
    return Call([draw.trees()[0]], lambda parent: None)


def _schedule(draw: Draw, parent: Tensor) -> Tensor | None:
    if draw.device == "cpu" or parent.numel() == 0 or parent.numel() > 2**15:
        return None if draw.chance(0.5) else draw.integers(-9, 9, "BL").int()
    return torch.ops.tree_ssm.tree_schedule(parent)


def _tree_scan(draw: Draw) -> Call:
    def expected(u, weight, parent, order, both, schedule):
        return [tree_scan_reference(u, weight, parent, order, both)]

    parent, order = draw.trees()
    weight = draw.normal("BLD", draw.random.choice((draw.dtype, draw.wide))).sigmoid()
    arguments = [draw.normal("BLD"), weight, parent, order, draw.chance(0.7), _schedule(draw, parent)]
    return Call(arguments, expected)


def _tree_scan_backward(draw: Draw) -> Call:
    def expected(grad_h, u, weight, parent, order, both, schedule):
        return gradients_of(lambda *inputs: [tree_scan_reference(*inputs, parent, order, both)], (u, weight), (grad_h,))

    return Call([draw.normal("BLD"), *_tree_scan(draw).arguments], expected)


def _tree_scan_down(draw: Draw) -> Call:
    def expected(g, weight, parent, order, schedule):
        def up(u):
            return [tree_scan_reference(u, weight, parent, order, False)]

        return gradients_of(up, (torch.zeros_like(g),), (g,))

    u, weight, parent, order, _, schedule = _tree_scan(draw).arguments
    return Call([u, weight, parent, order, schedule], expected)


def _selective_tree_scan(draw: Draw) -> Call:
    parent, order = draw.trees()
    schedule = _schedule(draw, parent)

    def expected(x, delta, A, B, delta_bias, given):
        if schedule is None or not torch.equal(given, schedule.cpu()):
            return None
        u, weight = source_and_weight(x, delta, A, B, delta_bias)
        return [tree_scan_reference(u, weight, parent.cpu(), order.cpu(), True)]

    arguments = [
        draw.normal("BLD"), draw.normal("BLD"), -draw.normal("D", draw.wide).abs(), draw.normal("BL"),
        draw.normal("D", draw.wide), schedule,
    ]  # fmt: skip
    return Call(arguments, expected)


def _selective_tree_scan_backward(draw: Draw) -> Call:
    call = _selective_tree_scan(draw)

    def expected(grad_h, *inputs):
        *inputs, schedule = inputs
        if call.expected(*inputs, schedule) is None:
            return None
        return gradients_of(lambda *leaves: call.expected(*leaves, schedule), inputs, (grad_h,))

    return Call([draw.normal("BLD"), *call.arguments], expected)


def _subtree_scan(draw: Draw) -> Call:
    def expected(x, delta, A, B, C, delta_bias, parent, order, next_step, schedule):
        return subtree_scan_reference(x, delta, A, B, C, delta_bias, Tree(parent, order), next_step)

    parent, order = draw.trees()
    arguments = [
        draw.normal("BLD"), draw.normal("BLD"), -draw.normal("DN", draw.wide).abs(), draw.normal("BLN"),
        draw.normal("BLN"), draw.normal("D", draw.wide), parent, order, draw.chance(0.5), _schedule(draw, parent),
    ]  # fmt: skip
    return Call(arguments, expected)


def _subtree_scan_backward(draw: Draw) -> Call:
    def expected(grad_y, grad_root, x, delta, A, B, C, delta_bias, parent, order, next_step, schedule):
        tree = Tree(parent, order)
        return gradients_of(
            lambda *inputs: subtree_scan_reference(*inputs, tree, next_step),
            (x, delta, A, B, C, delta_bias),
            (grad_y, grad_root),
        )

    upstream = [draw.normal("BLD"), draw.maybe(draw.normal("BDN", draw.wide))]
    return Call([*upstream, *_subtree_scan(draw).arguments], expected)


def _state_readout(draw: Draw) -> Call:
    parameters = [draw.normal("D", draw.wide) for _ in range(3)]
    arguments = [draw.normal("BLD"), draw.normal("BLD"), draw.normal("BL"), *parameters, 1e-5]
    return Call(arguments, lambda *inputs: [state_readout_reference(*inputs)])


def _state_readout_backward(draw: Draw) -> Call:
    def expected(grad_y, *inputs):
        *tensors, eps = inputs
        return gradients_of(lambda *leaves: [state_readout_reference(*leaves, eps)], tensors, (grad_y,))

    return Call([draw.normal("BLD"), *_state_readout(draw).arguments], expected)


def _gated_state_readout(draw: Draw) -> Call:
    parameters = [draw.normal("D", draw.wide) for _ in range(2)]
    *of_readout, _ = _state_readout(draw).arguments
    # Two norms leave nothing but signs of rows of two channels. With a small eps, gradients are errors of rounding.
    arguments = [*of_readout, 0.1, draw.normal("BLD"), *parameters, 0.1]
    return Call(arguments, lambda *inputs: [gated_state_readout_reference(*inputs)])


def _gated_state_readout_backward(draw: Draw) -> Call:
    def expected(grad_y, *inputs):
        *of_readout, eps, gate, out_weight, out_bias, out_eps = inputs

        def forward(*leaves):
            return [gated_state_readout_reference(*leaves[:6], eps, *leaves[6:], out_eps)]

        return gradients_of(forward, (*of_readout, gate, out_weight, out_bias), (grad_y,))

    return Call([draw.normal("BLD"), *_gated_state_readout(draw).arguments], expected)


def _type_of(dtype: torch.dtype, x: Tensor) -> torch.dtype:
    """The type of a result that is to be exact where the inputs are."""
    return torch.float64 if x.dtype == torch.float64 else dtype


def _norm(draw: Draw) -> Call:
    def expected(x, weight, bias, eps, centred, dtype):
        return [norm_reference(x, weight, bias, eps, centred, _type_of(dtype, x))]

    weight, bias = draw.normal("D", draw.wide), draw.maybe(draw.normal("D", draw.wide))
    dtype = draw.random.choice((draw.dtype, draw.wide))
    return Call([draw.normal("BLD"), weight, bias, 1e-5, draw.chance(0.5), dtype], expected)


def _norm_backward(draw: Draw) -> Call:
    def expected(grad_y, grad_more, x, weight, eps, centred):
        def forward(x, weight, bias):
            return [norm_reference(x, weight, bias, eps, centred, _type_of(grad_y.dtype, x)), x.clone()]

        return gradients_of(forward, (x, weight, torch.zeros_like(weight)), (grad_y, grad_more))

    x, weight, _, eps, centred, dtype = _norm(draw).arguments
    return Call([draw.normal("BLD", dtype), draw.maybe(draw.normal("BLD")), x, weight, eps, centred], expected)


def _gated_norm(draw: Draw) -> Call:
    def expected(x, gate, weight, bias, eps, centred):
        return [gated_norm_reference(x, gate, weight, bias, eps, centred, x.dtype)]

    weight, bias = draw.normal("D", draw.wide), draw.maybe(draw.normal("D", draw.wide))
    return Call([draw.normal("BLD"), draw.normal("BLD"), weight, bias, 1e-5, draw.chance(0.5)], expected)


def _gated_norm_backward(draw: Draw) -> Call:
    def expected(grad_y, x, gate, weight, bias, eps, centred):
        def forward(x, gate, weight, bias):
            return [gated_norm_reference(x, gate, weight, bias, eps, centred, x.dtype)]

        return gradients_of(forward, (x, gate, weight, torch.zeros_like(weight) if bias is None else bias), (grad_y,))

    return Call([draw.normal("BLD"), *_gated_norm(draw).arguments], expected)


def _residual_norm(draw: Draw) -> Call:
    def expected(x, residual, scale, weight, bias, eps, centred, dtype):
        return residual_norm_reference(x, residual, scale, weight, bias, eps, centred, _type_of(dtype, x))

    x, *parameters = _norm(draw).arguments
    residual = draw.normal("BLD", draw.random.choice((draw.dtype, draw.wide)))
    return Call([x, residual, draw.maybe(draw.normal("B", draw.wide)), *parameters], expected)


def _residual_norm_backward(draw: Draw) -> Call:
    def expected(grad_y, grad_stream, stream, scale, weight, eps, centred, dtype):
        def forward(x, residual, weight, bias):
            of_y = _type_of(grad_y.dtype, stream)
            return residual_norm_reference(x, residual, scale, weight, bias, eps, centred, of_y)

        # The stream is the residual beside a branch of zeros.
        x = torch.zeros_like(stream, dtype=_type_of(dtype, stream))
        return gradients_of(forward, (x, stream, weight, torch.zeros_like(weight)), (grad_y, grad_stream))

    x, stream, scale, weight, _, eps, centred, dtype = _residual_norm(draw).arguments
    upstream = [draw.normal("BLD", dtype), draw.maybe(draw.normal("BLD", stream.dtype))]
    return Call([*upstream, stream, scale, weight, eps, centred, x.dtype], expected)


def _grid_cosine_distance(draw: Draw) -> Call:
    return Call([draw.normal("BHWD")], lambda x: [grid_distances_reference(x, "cosine")])


def _token_distance(draw: Draw) -> Call:
    length = min(draw.size["L"], 2**31)
    arguments = [
        draw.normal("BLD"), draw.normal("BLD"), draw.normal("D", draw.wide), draw.normal("BLN"),
        draw.integers(0, length, "B"), draw.integers(0, length + 1, "B"), draw.random.randrange(1, 4),
    ]  # fmt: skip
    return Call(arguments, lambda *inputs: [token_distances_reference(*inputs)])


OPERATORS: dict[str, Callable[[Draw], Call]] = {
    "ssm_core::selective_scan": _selective_scan,
    "ssm_core::selective_scan_backward": _selective_scan_backward,
    "ssm_core::linear_recurrence": _linear_recurrence,
    "ssm_core::depthwise_conv": draw_depthwise_conv,
    "ssm_core::depthwise_conv_backward": draw_depthwise_conv_backward,
    "ssm_core::depthwise_conv_sum_backward": draw_depthwise_conv_sum_backward,
    "ssm_core::conv_norm_gelu": draw_conv_norm_gelu,
    "ssm_core::conv_norm_gelu_backward": draw_conv_norm_gelu_backward,
    "ssm_core::mlp": draw_mlp,
    "ssm_core::mlp_backward": draw_mlp_backward,
    "ssm_core::norm": _norm,
    "ssm_core::norm_backward": _norm_backward,
    "ssm_core::gated_norm": _gated_norm,
    "ssm_core::gated_norm_backward": _gated_norm_backward,
    "ssm_core::residual_norm": _residual_norm,
    "ssm_core::residual_norm_backward": _residual_norm_backward,
    "quadtree_ssm::quadtree_order": _quadtree_order,
    "quadtree_ssm::mask_gradient": _mask_gradient,
    "quadtree_ssm::token_logits": draw_token_logits,
    "tree_ssm::spanning_tree": _spanning_tree,
    "tree_ssm::minimum_spanning_tree": _minimum_spanning_tree,
    "tree_ssm::tree_schedule": _tree_schedule,
    "tree_ssm::tree_scan": _tree_scan,
    "tree_ssm::tree_scan_backward": _tree_scan_backward,
    "tree_ssm::tree_scan_down": _tree_scan_down,
    "tree_ssm::selective_tree_scan": _selective_tree_scan,
    "tree_ssm::selective_tree_scan_backward": _selective_tree_scan_backward,
    "tree_ssm::selective_subtree_scan": _subtree_scan,
    "tree_ssm::selective_subtree_scan_backward": _subtree_scan_backward,
    "tree_ssm::state_readout": _state_readout,
    "tree_ssm::state_readout_backward": _state_readout_backward,
    "tree_ssm::gated_state_readout": _gated_state_readout,
    "tree_ssm::gated_state_readout_backward": _gated_state_readout_backward,
    "tree_ssm::grid_cosine_distance": _grid_cosine_distance,
    "tree_ssm::token_distance": _token_distance,
}
