"""The minimum spanning tree of a grid in ONNX's standard operators, in a logarithmic number of steps.

Borůvka's rounds take minima by ``ScatterElements``. An Euler tour, whose places are found by pointer doubling, leads
from the tree's edges to its parents. The breadth-first order comes from sorting paths that double in length. The data
end the loops, so any height, width and batch will do.
"""

from typing import Any

import torch
from onnxscript import BOOL, FLOAT, INT64, script
from onnxscript.onnx_opset import opset18 as op
from onnxscript.values import Opset

_DOMAIN = Opset("tree_ssm", 1)


@script(_DOMAIN)
def _tree_edges(
    edge_weight: FLOAT[...],  # [B, E]
    height: INT64,
    width: INT64,
) -> BOOL[...]:  # [B, E]
    """Whether each edge of the grid is in the tree, by Borůvka's rounds over the ranks by (weight, index)."""
    flat = op.Constant(value_ints=[-1])
    count = op.Shape(edge_weight, start=1)  # [1], E
    vertex = op.Range(0, height * width, 1)
    grid = op.Reshape(vertex, op.Concat(op.Reshape(height, flat), op.Reshape(width, flat), axis=0))
    first = op.Concat(op.Reshape(grid[:-1], flat), op.Reshape(grid[:, :-1], flat), axis=0)
    second = op.Concat(op.Reshape(grid[1:], flat), op.Reshape(grid[:, 1:], flat), axis=0)
    # TopK lists equal weights by their index. Adding 0 turns -0 into 0.
    _, by_rank = op.TopK(edge_weight + 0.0, count, axis=1, largest=0)
    a, b = op.Gather(first, by_rank), op.Gather(second, by_rank)  # [B, E]
    rank = op.Expand(op.Range(0, op.Squeeze(count), 1), op.Shape(a))
    vertices = op.Expand(vertex, op.Concat(op.Shape(edge_weight, end=1), op.Shape(vertex), axis=0))  # [B, L]
    none = op.Expand(count, op.Shape(vertices))
    component = op.Identity(vertices)
    taken = rank < 0
    active = op.Squeeze(count) > 0
    while active:
        of_a, of_b = op.GatherElements(component, a, axis=1), op.GatherElements(component, b, axis=1)
        crosses = op.Not(op.Equal(of_a, of_b))
        key = op.Where(crosses, rank, count)
        one_side = op.ScatterElements(none, of_a, key, axis=1, reduction="min")
        lightest = op.ScatterElements(one_side, of_b, key, axis=1, reduction="min")
        chosen = op.Or(
            op.Equal(op.GatherElements(lightest, of_a, axis=1), rank),
            op.Equal(op.GatherElements(lightest, of_b, axis=1), rank),
        )
        taken = op.Or(taken, op.And(crosses, chosen))
        grows = lightest < count
        edge = op.Where(grows, lightest, 0)
        other = op.GatherElements(of_a, edge, axis=1) + op.GatherElements(of_b, edge, axis=1) - vertices
        hook = op.Where(grows, other, vertices)
        # Two components that took the same edge point at each other. The smaller one becomes the root.
        mutual = op.And(op.Equal(op.GatherElements(hook, hook, axis=1), vertices), vertices < hook)
        hook = op.Where(mutual, vertices, hook)
        moving = op.Cast(1, to=BOOL.dtype)
        while moving:
            further = op.GatherElements(hook, hook, axis=1)
            moving = op.Cast(op.ReduceMax(op.Abs(further - hook), keepdims=0), to=BOOL.dtype)
            hook = further
        component = op.GatherElements(hook, component, axis=1)
        active = op.Cast(op.ReduceMax(op.Cast(crosses, to=INT64.dtype), keepdims=0), to=BOOL.dtype)
    return op.ScatterElements(taken, by_rank, taken, axis=1)


@script(_DOMAIN)
def _hang(
    taken: BOOL[...],  # [B, E]
    root: INT64[...],  # [B]
    height: INT64,
    width: INT64,
) -> INT64[...]:  # [B, L]
    """The parents in a tree of the grid that hangs from a root.

    An arc is an edge in one direction. Arc 4·v + d leaves vertex v upwards, to the left, to the right or downwards (d =
    0 … 3). At every vertex the Euler tour takes the next arc in cyclic order after the one it came by. Cut before the
    root's first arc, the tour is a list. Doubling finds every arc's distance to the list's end. Of an edge's two arcs
    the one that comes first in the list leads from the parent to the child.
    """
    flat, keep = op.Constant(value_ints=[-1]), op.Constant(value_ints=[0, -1])
    one = op.Constant(value_ints=[1])
    batch, rows, columns = op.Shape(taken, end=1), op.Reshape(height, flat), op.Reshape(width, flat)
    edge = op.Cast(taken, to=INT64.dtype)
    verticals = (height - 1) * width
    vertical = op.Reshape(edge[:, :verticals], op.Concat(batch, rows - 1, columns, axis=0), allowzero=1)
    horizontal = op.Reshape(edge[:, verticals:], op.Concat(batch, rows, columns - 1, axis=0), allowzero=1)
    no_row = op.Expand(0, op.Concat(batch, one, columns, axis=0))
    no_column = op.Expand(0, op.Concat(batch, rows, one, axis=0))
    up, down = op.Concat(no_row, vertical, axis=1), op.Concat(vertical, no_row, axis=1)
    left, right = op.Concat(no_column, horizontal, axis=2), op.Concat(horizontal, no_column, axis=2)
    last = op.Constant(value_ints=[3])
    four = op.Concat(
        op.Unsqueeze(up, last), op.Unsqueeze(left, last), op.Unsqueeze(right, last), op.Unsqueeze(down, last), axis=3
    )
    leaves = op.Reshape(four, op.Constant(value_ints=[0, -1, 4]))  # allowzero off: the batch; [B, L, 4]
    vertex = op.Unsqueeze(op.Range(0, height * width, 1), 1)  # [L, 1]
    direction = op.Constant(value_ints=[0, 1, 2, 3])
    offset = op.Concat(op.Neg(columns), op.Constant(value_ints=[-1, 1]), columns, axis=0)
    arcs = op.Reshape(op.Expand(vertex * 4 + direction, op.Shape(leaves)), keep)
    exists = op.Cast(op.Reshape(leaves, keep), to=BOOL.dtype)
    back = op.Reshape(op.Expand((vertex + offset) * 4 + 3 - direction, op.Shape(leaves)), keep)
    back = op.Where(exists, back, arcs)
    # The arc by which the tour leaves a vertex that it came to from each direction.
    second = op.Cast(op.Gather(leaves, op.Constant(value_ints=[1, 2, 3, 0]), axis=2), to=BOOL.dtype)
    third = op.Cast(op.Gather(leaves, op.Constant(value_ints=[2, 3, 0, 1]), axis=2), to=BOOL.dtype)
    fourth = op.Cast(op.Gather(leaves, op.Constant(value_ints=[3, 0, 1, 2]), axis=2), to=BOOL.dtype)
    turn = op.Where(second, 1, op.Where(third, 2, op.Where(fourth, 3, 4)))
    leave = op.Reshape(vertex * 4 + op.Mod(direction + turn, 4), keep)
    # The tour ends with the arc that the root's first one would follow.
    at_root = op.Expand(op.Reshape(root, op.Constant(value_ints=[-1, 1, 1])), op.Constant(value_ints=[1, 1, 4]))
    first = op.Unsqueeze(root, one) * 4 + op.ArgMax(
        op.Squeeze(op.GatherElements(leaves, at_root, axis=1), one), axis=1, keepdims=1
    )
    follow = op.GatherElements(leave, back, axis=1)
    stops = op.Or(op.Not(exists), op.Equal(follow, first))
    follow = op.Where(stops, arcs, follow)
    ahead = op.Where(stops, 0, 1)
    reach = op.Constant(value_int=1)
    active = reach < 2 * height * width
    while active:
        ahead = ahead + op.GatherElements(ahead, follow, axis=1)
        follow = op.GatherElements(follow, follow, axis=1)
        reach = reach * 2
        active = reach < 2 * height * width
    rises = op.And(exists, op.GatherElements(ahead, back, axis=1) > ahead)
    up_by = op.Reshape(op.Cast(rises, to=INT64.dtype), op.Constant(value_ints=[0, -1, 4])) * offset
    return op.Squeeze(vertex, one) + op.ReduceSum(up_by, op.Constant(value_ints=[2]), keepdims=0)


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
    parent = _hang(_tree_edges(edge_weight, height, width), root, height, width)
    return parent, _breadth_first(parent)


TRANSLATIONS = {torch.ops.tree_ssm.minimum_spanning_tree.default: minimum_spanning_tree}
