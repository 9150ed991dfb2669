"""Tests that no call of an operator ends the process: absurd sizes, empty tensors, broken orders, and drawn calls.

``tests/fuzz_operators.py`` draws as many more calls as one likes.
"""

import pytest
import torch
from hostile.derivatives import DerivativeJudge
from hostile.drawing import Draw
from hostile.functions import public_functions
from hostile.judging import NAMES, Judge
from hostile.operators import OPERATORS
from torch.utils._python_dispatch import TorchDispatchMode

import quadtree_ssm.ops
import ssm_core.ops
import tree_ssm.ops
from quadtree_ssm.ops import quadtree_order
from ssm_core.ops import (
    depthwise_conv,
    directional_scan,
    gated_layer_norm,
    layer_norm,
    residual_layer_norm,
    rms_norm,
    selective_scan,
)
from tree_ssm.ops import (
    Tree,
    gated_state_readout,
    grid_distances,
    grid_edges,
    minimum_spanning_tree,
    selective_tree_scan,
    state_readout,
    subtree_scan,
    token_distances,
    token_edges,
    tree_scan,
)

BACKENDS = ["cpu", "reference"]
NAMESPACES = [package.__name__.partition(".")[0] for package in (ssm_core.ops, tree_ssm.ops, quadtree_ssm.ops)]
CHOICE = torch.zeros(1, dtype=torch.int64)


class Recorder(TorchDispatchMode):
    """Keeps the names of all operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_every_operator_and_public_function_has_a_drawing():
    operators = {schema.name for schema in torch._C._jit_get_all_schemas()}
    operators = {name for name in operators if name.partition("::")[0] in NAMESPACES}
    assert operators | set(public_functions()) == set(NAMES)


@pytest.mark.parametrize("name", OPERATORS)
def test_fake_rules_refuse_tensors_of_other_dimensions(name):
    namespace, _, operator = name.partition("::")
    function = getattr(getattr(torch.ops, namespace), operator)
    draw = next(draw for number in range(1000) if not (draw := Draw(0, number, "cpu")).odd)
    arguments = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in OPERATORS[name](draw).arguments]
    function(*arguments)
    for place, x in enumerate(arguments):
        if not isinstance(x, torch.Tensor) or x.dtype == torch.int32:  # a schedule, of which only kernels know the size
            continue
        for changed in (x[None], x[..., None]):
            if changed.shape == x.shape or (x.dtype == torch.int64 and changed.dim() == 3 and "spanning" in name):
                continue
            with pytest.raises((ValueError, RuntimeError), match="must be"):
                function(*arguments[:place], changed, *arguments[place + 1 :])


def test_no_gradient_is_not_taken_for_zero():
    weights = torch.ops.tree_ssm.grid_cosine_distance(torch.rand(2, 3, 4, 5, requires_grad=True))
    with pytest.raises(NotImplementedError, match="grid_distances: no gradient passes through"):
        weights.sum().backward()
    assert not grid_distances(torch.rand(2, 3, 4, 5, requires_grad=True)).requires_grad


@pytest.mark.parametrize("stretch", range(4))
def test_drawn_calls_are_right_or_refused(stretch):
    """Calls that take much memory are left to ``tests/fuzz_operators.py``, whose child processes have a limit."""
    judge = Judge(seed=stretch, large=False)
    outcomes = [judge.judge(number) for number in range(150)]
    assert not [outcome for outcome in outcomes if outcome.is_finding]
    assert {outcome.kind for outcome in outcomes} == {"right", "ran", "refused"}


def test_drawn_derivatives_are_right_or_refused_when_compiled():
    """``tests/fuzz_operators.py --derivatives`` draws more of them."""
    judge = DerivativeJudge(seed=0)
    outcomes = [judge.judge(number) for number in range(0, len(judge.names), 3)]
    assert not [outcome for outcome in outcomes if outcome.is_finding]
    assert sum(outcome.kind == "right" for outcome in outcomes) > len(outcomes) // 2


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "manhattan"])
def test_every_distance_can_be_compiled(distance):
    x = torch.randn(2, 3, 4, 5)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: grid_distances(x, distance), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), grid_distances(x, distance))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(2**31, 2), (2, 2**31), (2**62, 2**62), (2**16, 2**15)], ids=str)
def test_maps_of_2_to_31_tokens_are_refused(size, backend):
    with pytest.raises(ValueError, match=r"must have fewer than 2\^31 tokens, got"):
        quadtree_order(CHOICE, *size, backend=backend)
    with pytest.raises(RuntimeError, match=r"must have 1 to 2\^31 - 1 tokens, got"):
        torch.ops.quadtree_ssm.quadtree_order(CHOICE, *size, 2, 0, 0)
    with pytest.raises(RuntimeError, match=r"must have 1 to 2\^31 - 1 tokens, got"):
        torch.ops.quadtree_ssm.mask_gradient(torch.rand(1, 4, 2), torch.rand(1, 4, 2), CHOICE, *size, 0, 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("vertices", [2**20, 2**30, 2**31, 2**62])
def test_too_few_edges_are_refused_before_anything_is_allocated(vertices, backend):
    weight, edges = torch.rand(2, 3), torch.tensor([[0, 1], [1, 2], [0, 2]])
    with pytest.raises(ValueError, match=f"not connected, since 3 edges cannot join {vertices} vertices"):
        minimum_spanning_tree(weight, edges=edges, num_vertices=vertices, backend=backend)
    with pytest.raises((ValueError, RuntimeError), match=r"cannot connect|must have 1 to"):
        torch.ops.tree_ssm.spanning_tree(weight, edges, vertices, 1, torch.zeros(2, dtype=torch.int64))


def test_edges_of_absurd_grids_and_sequences_are_refused():
    for size in ((2**31, 1), (2**62, 4), (2**63, 8), (0, 3), (3, -1)):
        with pytest.raises(ValueError, match=r"the grid must have 1 to 2\^31 - 1 vertices, got"):
            grid_edges(*size)
    for length in (2**31, 2**63, -1):
        with pytest.raises(ValueError, match=r"length must be 0 to 2\^31 - 1, got"):
            token_edges(length, 3)
    with pytest.raises(ValueError, match="too many pairs of 1048576 tokens"):
        token_edges(2**20, 2**31)


def test_an_expanded_batch_of_maps_is_not_copied():
    x = torch.randn(1, 3, 2, 64)
    with Recorder() as recorder:
        many = grid_distances(x.expand(1000, -1, -1, -1))
    assert torch.equal(many, grid_distances(x).expand(1000, -1))
    assert not [name for name in recorder.names if "clone" in name or "copy" in name or "contiguous" in name]
    apart = torch.randn(4, 2, 3, 2, 64)[:, 1]  # samples that lie apart are not copied either
    assert torch.equal(grid_distances(apart), grid_distances(apart.contiguous()))
    rows = torch.randn(2, 3, 64, 4).mT  # others are
    assert torch.equal(grid_distances(rows), grid_distances(rows.contiguous()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_grids_without_vertices_are_refused(backend):
    for shape in ((2, 0, 3, 4), (2, 3, 0, 4), (0, 0, 0, 0)):
        with pytest.raises(ValueError, match="the grid must be at least 1×1"):
            grid_distances(torch.rand(shape), backend=backend)
        with pytest.raises(RuntimeError, match=r"with 1 to 2\^31 - 1 vertices"):
            torch.ops.tree_ssm.grid_cosine_distance(torch.rand(shape))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_is_taken_whatever_its_strides(backend):
    x, states = torch.rand(0, 4, 5), torch.rand(0, 2, 5)
    y, last = selective_scan(x, x, -torch.rand(4, 2), states, states, return_last_state=True, backend=backend)
    assert (y.shape, last.shape) == ((0, 4, 5), (0, 4, 2))
    columns = torch.rand(0, 5, 4).mT.contiguous().mT
    delta = torch.rand(0, 2, 4, 5).mT
    weights = torch.rand(2, 0, 2, 5, 1)
    y = directional_scan(columns, delta, -torch.rand(2, 4, 1), *weights, backend=backend)
    assert y.shape == (0, 5, 4)
    assert grid_distances(torch.rand(0, 4, 3, 5).permute(0, 2, 3, 1), backend=backend).shape == (0, 22)
    assert quadtree_order(CHOICE[:0], 4, 5, backend=backend).shape == (0, 20)
    none = torch.zeros(0, 5, dtype=torch.int64)
    assert tree_ssm.ops.tree_scan(columns, columns, Tree(none, none), backend=backend).shape == (0, 5, 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scans_without_a_state_or_a_direction_are_refused(backend):
    x = torch.rand(2, 5, 4)
    for directions, states in ((2, 0), (0, 3)):
        B = torch.rand(2, directions, 5, states)
        with pytest.raises(ValueError, match="there must be a direction and a state"):
            directional_scan(
                x, torch.rand(2, directions, 5, 4), torch.rand(directions, 4, states), B, B, backend=backend
            )
        with pytest.raises(RuntimeError, match=r"must be a multiple|there must be a token and a state"):
            torch.ops.ssm_core.selective_scan(
                x[:, None], torch.rand(2, directions, 5, 4), torch.rand(directions, 4, states), B, B, None, None, None,
                [False] * directions, True,
            )  # fmt: skip


def test_a_scan_of_no_channels_is_empty_or_refused():
    x, states = torch.rand(2, 0, 5), torch.rand(2, 3, 5)
    assert selective_scan(x, x, torch.rand(0, 3), states, states).shape == (2, 0, 5)
    with pytest.raises(ValueError, match="of each channel need a channel"):
        selective_scan(x, x, torch.rand(0, 3), torch.rand(0, 3), torch.rand(0, 3))


X, CHANNELS, STATES, MAP = torch.rand(2, 5, 4), torch.rand(4), torch.rand(2, 2, 5, 3), torch.rand(1, 2, 3, 4)
TREE = Tree(torch.zeros(2, 5, dtype=torch.int64), torch.arange(5).expand(2, 5))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (selective_scan, dict(u=X, delta=X, A=torch.rand(5, 3), B=torch.rand(2, 3, 4), C=torch.rand(2, 3, 4),
                              D=torch.rand(5), delta_bias=torch.rand(5), z=X)),
        (directional_scan, dict(x=X, delta=torch.rand(2, 2, 5, 4), A=-torch.rand(2, 4, 3), B=STATES, C=STATES,
                                D=torch.rand(2, 4), delta_bias=torch.rand(2, 4))),
        (layer_norm, dict(x=X, weight=CHANNELS, bias=CHANNELS)),
        (rms_norm, dict(x=X, weight=CHANNELS)),
        (gated_layer_norm, dict(x=X, gate=X, weight=CHANNELS, bias=CHANNELS)),
        (residual_layer_norm, dict(x=X, residual=X, weight=CHANNELS, bias=CHANNELS)),
        (depthwise_conv, dict(x=MAP, weight=torch.rand(4, 3, 3), bias=CHANNELS)),
        (state_readout, dict(h=X, x=X, C=X[..., 0], D=CHANNELS, weight=CHANNELS, bias=CHANNELS)),
        (gated_state_readout, dict(h=X, x=X, C=X[..., 0], D=CHANNELS, weight=CHANNELS, bias=CHANNELS, gate=X,
                                   out_weight=CHANNELS, out_bias=CHANNELS)),
        (tree_scan, dict(u=X, weight=X, tree=TREE)),
        (selective_tree_scan, dict(x=X, delta=X, A=-CHANNELS, B=X[..., 0], tree=TREE, delta_bias=CHANNELS)),
        (grid_distances, dict(x=MAP)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_complex_and_float8_arguments_are_refused(function, arguments, dtype, backend):
    """PyTorch drops the imaginary part of a number that becomes real. It has no operators for float8."""
    function(**arguments, backend=backend)
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            with pytest.raises(ValueError, match=rf"\b{name}\b.*{dtype}"):
                function(**{**arguments, name: value.to(dtype)}, backend=backend)


LIST = dict(edges=torch.tensor([[0, 1], [1, 2], [0, 2]]), num_vertices=3)


@pytest.mark.parametrize(
    ("function", "arguments", "names"),
    [
        (minimum_spanning_tree, dict(edge_weight=torch.rand(2, 17), height=3, width=4, root=0), "height width root"),
        (minimum_spanning_tree, dict(edge_weight=torch.rand(2, 3), **LIST), "num_vertices"),
        (grid_edges, dict(height=3, width=4), "height width"),
        (token_edges, dict(length=5, reach=3), "length reach"),
        (quadtree_order, dict(choice=CHOICE, height=4, width=4, levels=2, shift=(0, 0)), "height width levels shift"),
        (token_distances, dict(x=X, delta=X, delta_bias=CHANNELS, B=X, start=CHOICE.repeat(2),
                               end=CHOICE.repeat(2) + 5, reach=2), "reach"),
    ],
    ids=["grid", "list", "grid_edges", "token_edges", "quadtree_order", "token_distances"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [float, str])
def test_sizes_that_are_no_integers_are_refused(function, arguments, names, kind):
    function(**arguments)
    for name in names.split():
        value = arguments[name]
        wrong = tuple(map(kind, value)) if isinstance(value, tuple) else kind(value)
        with pytest.raises(ValueError, match=rf"{name} must be"):
            function(**{**arguments, name: wrong})


def test_an_order_that_is_no_permutation_is_refused():
    """A token that the order leaves out would be memory that nobody wrote."""
    x, delta = torch.rand(2, 5, 4), torch.rand(2, 2, 5, 4)
    A, B = -torch.rand(2, 4, 3), torch.rand(2, 2, 5, 3)
    order = torch.stack([torch.randperm(5) for _ in range(4)]).view(2, 2, 5)
    for at, token, message in (((1, 1, 4), order[1, 1, 0], "every token once"), ((0, 1, 2), 5, "indices from 0 to 4")):
        bad = order.clone()
        bad[at] = token
        with pytest.raises((ValueError, IndexError), match=message):
            directional_scan(x, delta, A, B, B, order=bad, backend="cpu")
    for row in ([0, 1, 2, 3, 3], [-1, 0, 1, 2, 3]):
        with pytest.raises((ValueError, IndexError), match="order must"):
            directional_scan(x, delta, A, B, B, order=torch.tensor(row), backend="cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_tree_is_refused_without_channels_too(backend):
    parent = torch.tensor([[0, 0, 1, 1]])
    no_tree = Tree(parent, torch.tensor([[0, 2, 1, 3]]))
    x = torch.rand(1, 4, 0)
    with pytest.raises(ValueError, match="tree is not a tree in sample 0"):
        tree_scan(x, x, no_tree, backend=backend)
    B, A = torch.rand(1, 4, 2), torch.rand(0, 2)
    with pytest.raises(ValueError, match="tree is not a tree in sample 0"):
        subtree_scan(x, x, A, B, B, torch.rand(0), no_tree, backend=backend)
