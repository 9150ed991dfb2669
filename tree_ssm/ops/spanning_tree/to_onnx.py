"""The minimum spanning tree of a grid in ONNX's standard operators, in a logarithmic number of steps.

Borůvka's rounds take minima by ``ScatterElements``, and each round has only the components and edges that the last one
left. The parents come from these rounds in the opposite order. The breadth-first order comes from sorting paths that
double in length. The data end the loops, so any height, width and batch will do.
"""

from typing import Any

import torch
from onnxscript import BOOL, FLOAT, INT64, script
from onnxscript.onnx_opset import opset18 as op
from onnxscript.values import Opset

_DOMAIN = Opset("tree_ssm", 1)


@script(_DOMAIN)
def _sorted_edges(
    edge_weight: FLOAT[...],  # [B, E]
    height: INT64,
    width: INT64,
) -> tuple[INT64[...], INT64[...], INT64[...]]:  # [B·E]; [B·E]; [1]
    """The ends of the edges, sample by sample, each sample's by (weight, index), and the number V of all vertices.

    The vertices have numbers of their own in every sample.
    """
    flat = op.Constant(value_ints=[-1])
    grid = op.Reshape(
        op.Range(0, height * width, 1), op.Concat(op.Reshape(height, flat), op.Reshape(width, flat), axis=0)
    )
    first = op.Concat(op.Reshape(grid[:-1], flat), op.Reshape(grid[:, :-1], flat), axis=0)
    second = op.Concat(op.Reshape(grid[1:], flat), op.Reshape(grid[:, 1:], flat), axis=0)
    # TopK lists equal weights by their index. Adding 0 turns -0 into 0.
    _, by_rank = op.TopK(edge_weight + 0.0, op.Shape(edge_weight, start=1), axis=1, largest=0)
    batch = op.Shape(edge_weight, end=1)
    before = op.Unsqueeze(op.Range(0, op.Squeeze(batch), 1) * (height * width), op.Constant(value_ints=[1]))
    first, second = op.Gather(first, by_rank) + before, op.Gather(second, by_rank) + before
    return op.Reshape(first, flat), op.Reshape(second, flat), batch * (height * width)


@script(_DOMAIN)
def _contract(
    first: INT64[...],  # [M]
    second: INT64[...],  # [M]
    count: INT64[...],  # [1], V
) -> tuple[INT64[...], INT64[...], INT64[...], INT64[...], INT64[...]]:  # [R + 1]; [R·V]; [S]; [S]; [S]
    """Borůvka's rounds over edges that are sorted within every sample.

    A round hooks each of its components to the one at the other end of its lightest edge. What hangs together becomes
    one component of the next round, and edges within components are dropped.

    Returns:
        Where each of the R rounds begins in the last three lists; the component of every vertex in every round; and
        of each round's components the one that it hooks to, and the ends of the edge inside and outside of it.
    """
    nothing = first[:0]
    a, b, from_a, from_b = op.Identity(first), op.Identity(second), op.Identity(first), op.Identity(second)
    of_vertex = op.Range(0, op.Squeeze(count), 1)
    component = op.Identity(of_vertex)
    begins = op.Constant(value_ints=[0])
    components, hooks = op.Identity(nothing), op.Identity(nothing)
    inner_ends, outer_ends = op.Identity(nothing), op.Identity(nothing)
    active = op.Squeeze(op.Shape(first)) > 0
    while active:
        edges = op.Shape(a)
        number = op.Range(0, op.Squeeze(edges), 1)
        none = op.Expand(edges, op.Shape(component))
        one_side = op.ScatterElements(none, a, number, axis=0, reduction="min")
        lightest = op.ScatterElements(one_side, b, number, axis=0, reduction="min")
        # A sample that is ready before the others has no edges.
        grows = lightest < edges
        edge = op.Where(grows, lightest, 0)
        is_first = op.Equal(op.Gather(a, edge), component)
        head, tail = op.Gather(from_a, edge), op.Gather(from_b, edge)
        inner_ends = op.Concat(inner_ends, op.Where(is_first, head, tail), axis=0)
        outer_ends = op.Concat(outer_ends, op.Where(is_first, tail, head), axis=0)
        hook = op.Where(grows, op.Where(is_first, op.Gather(b, edge), op.Gather(a, edge)), component)
        # Two components that took the same edge point at each other. The smaller one becomes the root.
        mutual = op.And(op.Equal(op.Gather(hook, hook), component), component < hook)
        hook = op.Where(mutual, component, hook)
        components = op.Concat(components, of_vertex, axis=0)
        hooks = op.Concat(hooks, hook, axis=0)
        begins = op.Concat(begins, op.Shape(hooks), axis=0)
        is_root = op.Cast(op.Equal(hook, component), to=INT64.dtype)
        moving = op.Cast(1, to=BOOL.dtype)
        while moving:
            further = op.Gather(hook, hook)
            moving = op.Cast(op.ReduceMax(op.Abs(further - hook), keepdims=0), to=BOOL.dtype)
            hook = further
        last = op.Constant(value_int=0)
        label = op.Gather(op.CumSum(is_root, last) - 1, hook)
        of_vertex = op.Gather(label, of_vertex)
        component = op.Range(0, op.ReduceSum(is_root, keepdims=0), 1)
        next_a, next_b = op.Gather(label, a), op.Gather(label, b)
        crosses = op.Not(op.Equal(next_a, next_b))
        from_a, from_b = op.Compress(from_a, crosses, axis=0), op.Compress(from_b, crosses, axis=0)
        a, b = op.Compress(next_a, crosses, axis=0), op.Compress(next_b, crosses, axis=0)
        active = op.Squeeze(op.Shape(a)) > 0
    return begins, components, hooks, inner_ends, outer_ends


@script(_DOMAIN)
def _hang(
    begins: INT64[...],  # [R + 1]
    components: INT64[...],  # [R·V]
    hooks: INT64[...],  # [S]
    inner_ends: INT64[...],  # [S]
    outer_ends: INT64[...],  # [S]
    root: INT64[...],  # [B], numbered within its sample
    count: INT64[...],  # [1], V
) -> INT64[...]:  # [B, L], numbered within each sample
    """The parents in trees that hang from a root, from the records of Borůvka's rounds, the last round first.

    The path from the root enters every component at one vertex, its entrance. Within a component of the next round,
    the hooks lead from the component of this round with that entrance to one that hooks to nobody. On this way the
    edges are taken against the hooks, and elsewhere along them. So each component but the first gets its entrance and
    the entrance's parent.
    """
    parent = op.Range(0, op.Squeeze(count), 1)
    batch = op.Shape(root)
    length = count / batch
    before = op.Range(0, op.Squeeze(batch), 1) * length
    entrance = root + before
    end = op.Shape(begins) - 1
    active = op.Squeeze(end) > 0
    while active:
        start = end - 1
        here, there = op.Slice(begins, start, end), op.Slice(begins, end, end + 1)
        hook = op.Slice(hooks, here, there)
        inner, outer = op.Slice(inner_ends, here, there), op.Slice(outer_ends, here, there)
        first = op.Gather(op.Slice(components, start * count, end * count), entrance)
        none = hook - hook
        on_way = op.ScatterElements(none, first, op.Expand(1, op.Shape(first)), axis=0)
        jump = op.Identity(hook)
        moving = op.Cast(1, to=BOOL.dtype)
        while moving:
            on_way = op.ScatterElements(on_way, jump, on_way, axis=0, reduction="max")
            further = op.Gather(jump, jump)
            moving = op.Cast(op.ReduceMax(op.Abs(further - jump), keepdims=0), to=BOOL.dtype)
            jump = further
        number = op.Range(0, op.Squeeze(op.Shape(hook)), 1)
        turned = op.And(op.Cast(on_way, to=BOOL.dtype), op.Not(op.Equal(hook, number)))
        to, entered_at = op.Compress(hook, turned, axis=0), op.Compress(outer, turned, axis=0)
        above = op.ScatterElements(outer, to, op.Compress(inner, turned, axis=0), axis=0)
        above = op.ScatterElements(above, first, op.Gather(parent, entrance), axis=0)
        own = op.ScatterElements(inner, to, entered_at, axis=0)
        entrance = op.ScatterElements(own, first, entrance, axis=0)
        parent = op.ScatterElements(parent, entrance, above, axis=0)
        end = op.Identity(start)
        active = op.Squeeze(end) > 0
    return op.Reshape(parent, op.Concat(batch, length, axis=0)) - op.Unsqueeze(before, op.Constant(value_ints=[1]))


@script(_DOMAIN)
def _breadth_first(
    parent: INT64[...],  # [B, L]
) -> INT64[...]:  # [B, L]
    """The vertices by depth, and within a depth by their ancestors from the root on, so that children come by number.

    Vertices are first ranked by depth and number. Every further round ranks them by the rank of the ancestor that lies
    as far above as the paths compared so far are long.
    """
    length = op.Shape(parent, start=1)  # [1]
    vertex = op.Expand(op.Range(0, op.Squeeze(length), 1), op.Shape(parent))
    ancestor = op.Identity(parent)
    depth = op.Where(op.Equal(parent, vertex), 0, 1)
    reach = op.Constant(value_ints=[1])
    active = op.Squeeze(reach < length)
    while active:
        depth = depth + op.GatherElements(depth, ancestor, axis=1)
        ancestor = op.GatherElements(ancestor, ancestor, axis=1)
        reach = reach * 2
        active = op.Squeeze(reach < length)
    _, order = op.TopK(depth * length + vertex, length, axis=1, largest=0)
    above = op.Identity(parent)
    span = op.Constant(value_ints=[1])
    growing = op.Squeeze(span < length)
    while growing:
        rank = op.ScatterElements(vertex, order, vertex, axis=1)
        _, longer = op.TopK(op.GatherElements(rank, above, axis=1) * length + rank, length, axis=1, largest=0)
        order = op.Identity(longer)
        above = op.GatherElements(above, above, axis=1)
        span = span * 2
        growing = op.Squeeze(span < length)
    return order


def minimum_spanning_tree(edge_weight: Any, edges: Any, height: Any, width: Any, root: Any) -> tuple[Any, Any]:
    """``tree_ssm::minimum_spanning_tree`` of a grid; as on a GPU, it raises no error about values.

    Raises:
        NotImplementedError: the graph is given as a list of edges.
    """
    if edges is not None:
        raise NotImplementedError("minimum_spanning_tree has an ONNX form for grids alone, not for lists of edges")
    first, second, count = _sorted_edges(edge_weight, height, width)
    parent = _hang(*_contract(first, second, count), root, count)
    return parent, _breadth_first(parent)


TRANSLATIONS = {torch.ops.tree_ssm.minimum_spanning_tree.default: minimum_spanning_tree}
