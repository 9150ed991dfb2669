"""For every public function of the operators' packages: right arguments, by the drawing of the operator beneath it.

What a function has to give is what the same call gives with ``backend="reference"``, on the CPU and in float64.
"""

import inspect
from collections.abc import Callable

import quadtree_ssm.ops
import ssm_core.ops
import tree_ssm.ops
from tree_ssm.ops import Tree

from .calls import Call
from .drawing import Draw
from .operators import OPERATORS

PACKAGES = (ssm_core.ops, tree_ssm.ops, quadtree_ssm.ops)


def public_functions() -> dict[str, Callable]:
    """All functions that the packages export, by their names."""
    found = {}
    for package in PACKAGES:
        for name in package.__all__:
            if inspect.isfunction(getattr(package, name)):
                found[f"{package.__name__}.{name}"] = getattr(package, name)
    return found


def _raw(name: str, draw: Draw) -> list:
    return OPERATORS[name](draw).arguments


def _selective_scan(draw: Draw) -> list:
    form = draw.random.choice(("BNL", "BGNL", "DN"))
    if form == "BGNL":
        draw.size["D"] = draw.size["G"] * 4
    order = draw.maybe(draw.permutations(draw.random.choice(("L", "BL"))))
    return [
        draw.normal("BDL"), draw.normal("BDL"), -draw.normal("DN", draw.wide).abs(), draw.normal(form),
        draw.normal(form), draw.maybe(draw.normal("D")), draw.maybe(draw.normal("BDL")), draw.maybe(draw.normal("D")),
        draw.chance(0.7), draw.chance(0.5), order, draw.chance(0.5),
    ]  # fmt: skip


def _directional_scan(draw: Draw) -> list:
    order = draw.maybe(draw.permutations(draw.random.choice(("L", "KL", "BKL"))))
    flags = [draw.chance(0.5) for _ in range(min(draw.size["K"], 100))]
    return [
        draw.normal("BLD"), draw.normal("BKLD"), -draw.normal("KDN", draw.wide).abs(), draw.normal("BKLN"),
        draw.normal("BKLN"), draw.maybe(draw.normal("KD")), draw.maybe(draw.normal("KD")), order, flags,
    ]  # fmt: skip


def _norm(draw: Draw, with_residual: bool = False, with_bias: bool = True) -> list:
    residual = [draw.normal("BLD", draw.random.choice((draw.dtype, draw.wide)))] if with_residual else []
    bias = [draw.maybe(draw.normal("D"))] if with_bias else []
    scale = [draw.maybe(draw.normal("B"))] if with_residual else []
    return [draw.normal("BLD"), *residual, draw.normal("D"), *bias, 1e-5, *scale]


def _gated_norm(draw: Draw, with_bias: bool = True) -> list:
    bias = [draw.maybe(draw.normal("D"))] if with_bias else []
    gate = draw.normal("BLD", draw.random.choice((draw.dtype, draw.wide)))
    return [draw.normal("BLD"), gate, draw.normal("D"), *bias, 1e-5]


def _minimum_spanning_tree(draw: Draw) -> list:
    weight, edges, height, width, root = _raw("tree_ssm::spanning_tree", draw)
    if edges is None:
        return [weight, height, width, None, None, root]
    return [weight, None, None, edges, height, root]


def _subtree_scan(draw: Draw) -> list:
    *tensors, parent, order, next_step, _ = _raw("tree_ssm::selective_subtree_scan", draw)
    return [*tensors, Tree(parent, order), next_step]


def _selective_tree_scan(draw: Draw) -> list:
    return [*_raw("tree_ssm::selective_tree_scan", draw)[:-1], Tree(*draw.trees())]


def _tree_scan(draw: Draw) -> list:
    u, weight, parent, order, both, _ = _raw("tree_ssm::tree_scan", draw)
    return [u, weight, Tree(parent, order), "both" if both else "up"]


def _map(draw: Draw) -> None:
    """The quadtree's functions take no map that is narrower than two tokens."""
    for side in "HW":
        draw.size[side] = draw.size[side] if side == draw.odd else max(draw.size[side], 2)


def _quadtree_order(draw: Draw) -> list:
    _map(draw)
    choice, height, width, levels, *shift = _raw("quadtree_ssm::quadtree_order", draw)
    return [choice, height, width, levels, tuple(shift)]


def _straight_through(draw: Draw) -> list:
    _map(draw)
    tokens, _, choice, height, width, *shift = _raw("quadtree_ssm::mask_gradient", draw)
    draw.size["Q"] = 4
    return [tokens, draw.normal("BQ"), choice, height, width, tuple(shift)]


def _gated_state_readout(draw: Draw) -> list:
    *of_readout, eps, gate, out_weight, out_bias, out_eps = _raw("tree_ssm::gated_state_readout", draw)
    return [*of_readout, gate, out_weight, out_bias, eps, out_eps]


def _grid_distances(draw: Draw) -> list:
    return [draw.normal("BHWD"), draw.random.choice(("cosine", "euclidean", "manhattan"))]


def _grid_edges(draw: Draw) -> list:
    return [min(x, 2**20) for x in draw.shape("HW")]


def _token_edges(draw: Draw) -> list:
    return [min(draw.size["L"], 2**20), draw.random.randrange(1, 5)]


def _token_distances(draw: Draw) -> list:
    draw.size["N"] = min(draw.size["N"], 2**16)  # the reference sums over all states, even if they are one element
    *tensors, reach = _raw("tree_ssm::token_distance", draw)
    return [*tensors, draw.random.choice((reach, 5))]


def _token_logits(draw: Draw) -> list:
    x, gamma, beta, eps, *layers = _raw("quadtree_ssm::token_logits", draw)
    return [x, gamma, beta, *layers, eps]


# In the order of the signatures; see `keywords`.
FUNCTIONS: dict[str, Callable[[Draw], list]] = {
    "ssm_core.ops.selective_scan": _selective_scan,
    "ssm_core.ops.directional_scan": _directional_scan,
    "ssm_core.ops.depthwise_conv": lambda draw: _raw("ssm_core::depthwise_conv", draw),
    "ssm_core.ops.conv_norm_gelu": lambda draw: _raw("ssm_core::conv_norm_gelu", draw),
    "ssm_core.ops.mlp": lambda draw: _raw("ssm_core::mlp", draw),
    "quadtree_ssm.ops.token_logits": _token_logits,
    "ssm_core.ops.layer_norm": _norm,
    "ssm_core.ops.rms_norm": lambda draw: _norm(draw, with_bias=False),
    "ssm_core.ops.gated_layer_norm": _gated_norm,
    "ssm_core.ops.gated_rms_norm": lambda draw: _gated_norm(draw, with_bias=False),
    "ssm_core.ops.residual_layer_norm": lambda draw: _norm(draw, with_residual=True),
    "ssm_core.ops.residual_rms_norm": lambda draw: _norm(draw, with_residual=True, with_bias=False),
    "tree_ssm.ops.gated_state_readout": _gated_state_readout,
    "tree_ssm.ops.grid_distances": _grid_distances,
    "tree_ssm.ops.grid_edges": _grid_edges,
    "tree_ssm.ops.minimum_spanning_tree": _minimum_spanning_tree,
    "tree_ssm.ops.selective_tree_scan": _selective_tree_scan,
    "tree_ssm.ops.state_readout": lambda draw: _raw("tree_ssm::state_readout", draw),
    "tree_ssm.ops.subtree_scan": _subtree_scan,
    "tree_ssm.ops.token_distances": _token_distances,
    "tree_ssm.ops.token_edges": _token_edges,
    "tree_ssm.ops.tree_scan": _tree_scan,
    "quadtree_ssm.ops.quadtree_order": _quadtree_order,
    "quadtree_ssm.ops.straight_through_input": _straight_through,
    "quadtree_ssm.ops.straight_through_output": _straight_through,
}


def call_of(name: str, draw: Draw) -> tuple[Callable, Call]:
    """A public function, to be called with positional arguments, and a right call of it."""
    function = public_functions()[name]
    names = list(inspect.signature(function).parameters)

    def positional(*arguments: object, **more: object) -> object:
        return function(**dict(zip(names, arguments, strict=False)), **more)

    def expected(*arguments: object) -> list | None:
        if "backend" not in names:
            return None
        result = positional(*arguments, backend="reference")
        return list(result) if isinstance(result, tuple) else [result]

    return positional, Call(FUNCTIONS[name](draw), expected)
