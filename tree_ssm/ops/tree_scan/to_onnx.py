"""The tree scan in ONNX's standard operators, in blocks of eight levels.

A vertex whose depth is a multiple of eight is a head: the vertices below it, down to the next heads, are its block.
Within all blocks at once, a pass takes one step a level. The heads alone, an eighth of the vertices, form a tree again,
and a pass over it is a product (1 + M)(1 + M²)(1 + M⁴)…, which takes log₂ of its depth in steps. So the work is that of
a few passes over all vertices, whatever the tree's depth.

Siblings are neighbours in every level, so that their sum takes log₂ of their number in steps and no parent gets two
additions at once. ONNX Runtime's ``ScatterND`` adds in several threads and loses additions where an index is repeated.
"""

from typing import Any, NamedTuple

import torch
from onnxscript import BOOL, FLOAT, INT64, script
from onnxscript.onnx_opset import opset18 as op
from onnxscript.values import Opset

_DOMAIN = Opset("tree_ssm", 1)
_LEVELS = 8  # of a block


@script(_DOMAIN)
def _depths(
    parent: INT64[...],  # [V]
) -> INT64[...]:  # [V]
    """The depth of every vertex, by pointer jumping."""
    vertex = op.Range(0, op.Squeeze(op.Shape(parent)), 1)
    depth = op.Cast(op.Not(op.Equal(parent, vertex)), to=INT64.dtype)
    ancestor = op.Identity(parent)
    active = op.Cast(1, to=BOOL.dtype)
    while active:
        # A root's depth is 0. All is done once nobody's ancestor has a depth.
        added = op.Gather(depth, ancestor)
        active = op.Cast(op.ReduceMax(added, keepdims=0), to=BOOL.dtype)
        depth = depth + added
        ancestor = op.Gather(ancestor, ancestor)
    return depth


@script(_DOMAIN)
def _up(
    u: FLOAT[...],  # [V, D]
    weight: FLOAT[...],  # [V, D]
    parent: INT64[...],  # [V]
) -> FLOAT[...]:  # [V, D]
    """The pass up: (1 - M)⁻¹ u = … (1 + M⁴)(1 + M²)(1 + M) u, where M moves a vertex, weighted, to its parent.

    A root's weight is 0, so that no path goes beyond the root.
    """
    xi, w, ancestor = op.Identity(u), op.Identity(weight), op.Identity(parent)
    active = op.Cast(1, to=BOOL.dtype)
    while active:
        rows = op.Expand(op.Unsqueeze(ancestor, op.Constant(value_ints=[1])), op.Shape(xi))
        xi = op.ScatterElements(xi, rows, w * xi, axis=0, reduction="add")
        above = op.Gather(ancestor, ancestor)
        active = op.Cast(op.ReduceMax(op.Abs(above - ancestor), keepdims=0), to=BOOL.dtype)
        w = w * op.Gather(w, ancestor)
        ancestor = above
    return xi


@script(_DOMAIN)
def _down(
    start: FLOAT[...],  # [V, D]
    weight: FLOAT[...],  # [V, D]
    parent: INT64[...],  # [V]
) -> FLOAT[...]:  # [V, D]
    """The pass down: h_i = start_i + w_i h_parent, by the same doubling in the other direction."""
    h, w, ancestor = op.Identity(start), op.Identity(weight), op.Identity(parent)
    active = op.Cast(1, to=BOOL.dtype)
    while active:
        h = h + w * op.Gather(h, ancestor)
        above = op.Gather(ancestor, ancestor)
        active = op.Cast(op.ReduceMax(op.Abs(above - ancestor), keepdims=0), to=BOOL.dtype)
        w = w * op.Gather(w, ancestor)
        ancestor = above
    return h


@script(_DOMAIN)
def _add_up(
    rows: FLOAT[...],  # [n, D]
    parent: INT64[...],  # [n], equal ones are neighbours
    into: FLOAT[...],  # [m, D]
) -> FLOAT[...]:  # [m, D]
    """Add rows to those of their parents. The first of the siblings brings the sum of all of them."""
    count = op.Shape(parent)
    total = op.Identity(rows)
    reach = op.Min(op.Constant(value_ints=[1]), count)
    same = op.Equal(parent[reach:], parent[: count - reach])
    active = op.ReduceSum(op.Cast(same, to=INT64.dtype), keepdims=0) > 0
    while active:
        more = op.Where(op.Unsqueeze(same, op.Constant(value_ints=[1])), total[reach:], 0.0)
        total = op.Concat(total[: count - reach] + more, total[count - reach :], axis=0)
        reach = op.Min(reach + reach, count)
        same = op.Equal(parent[reach:], parent[: count - reach])
        active = op.ReduceSum(op.Cast(same, to=INT64.dtype), keepdims=0) > 0
    before = op.Slice(op.Concat(op.Constant(value_ints=[-1]), parent, axis=0), op.Constant(value_ints=[0]), count)
    first = op.Not(op.Equal(parent, before))
    target = op.Unsqueeze(op.Compress(parent, first, axis=0), op.Constant(value_ints=[1]))
    return op.ScatterND(into, target, op.Compress(total, first, axis=0), reduction="add")


@script(_DOMAIN)
def _forest(
    parent: INT64[...],  # [B, L]
) -> INT64[...]:  # [B·L]
    """The vertices of all samples as one forest."""
    samples, length = op.Range(0, op.Squeeze(op.Shape(parent, end=1)), 1), op.Shape(parent, start=1)
    return op.Reshape(
        parent + op.Unsqueeze(samples, op.Constant(value_ints=[1])) * length, op.Constant(value_ints=[-1])
    )


class _Blocks(NamedTuple):
    """The vertices of a forest, sorted by their level in their block, and within a level by their parent."""

    place: Any  # [V], where each vertex went
    vertex: Any  # [V], which vertex came to each place
    parent: Any  # [V], the place of the parent of each place's vertex
    head: Any  # [V], the place of the head of each place's block; the heads are the first places
    ends: list[Any]  # [1] each, where each level ends
    parents: list[Any]  # of every level but the first, the parents' places in the level before

    def level(self, rows: Any, level: int) -> Any:
        """A level's rows."""
        start = op.Constant(value_ints=[0]) if level == 0 else self.ends[level - 1]
        return op.Slice(rows, start, self.ends[level])

    def sums_up(self, weights: list[Any], source: Any) -> list[Any]:
        """The pass up within all blocks, from their last level to the heads: the rows of every level."""
        xi = [self.level(source, _LEVELS - 1)]
        for c in range(_LEVELS - 1, 0, -1):
            xi.insert(0, _add_up(op.Mul(weights[c], xi[0]), self.parents[c - 1], self.level(source, c - 1)))
        return xi


def _blocks(
    parent: Any,  # [V]
) -> _Blocks:
    """Cut a forest into blocks."""
    level = op.Mod(_depths(parent), op.Constant(value_int=_LEVELS))
    count = op.Shape(parent)
    _, vertex = op.TopK(op.Add(op.Mul(level, count), parent), count, largest=0)
    number = op.Range(op.Constant(value_int=0), op.Size(vertex), op.Constant(value_int=1))
    place = op.ScatterElements(vertex, vertex, number)
    above = op.Gather(place, op.Gather(parent, vertex))
    last = op.Constant(value_ints=[-1])
    ends = [
        op.Reshape(op.ReduceSum(op.Cast(op.LessOrEqual(level, op.Constant(value_int=c)), to=INT64.dtype)), last)
        for c in range(_LEVELS)
    ]
    blocks = _Blocks(place, vertex, above, None, ends, [])
    start = op.Constant(value_ints=[0])
    heads = [op.Slice(number, start, ends[0])]
    for c in range(1, _LEVELS):
        blocks.parents.append(op.Sub(blocks.level(above, c), start))
        heads.append(op.Gather(heads[-1], blocks.parents[-1]))
        start = ends[c - 1]
    return blocks._replace(head=op.Concat(*heads, axis=0))


def _column(index: Any) -> Any:
    """A list of numbers as a factor of rows."""
    return op.Unsqueeze(index, op.Constant(value_ints=[1]))


def tree_scan(u: Any, weight: Any, parent: Any, order: Any, both: bool, schedule: Any = None) -> Any:
    """``tree_ssm::tree_scan`` in float32; it does not need the order."""
    rows = op.Concat(op.Constant(value_ints=[-1]), op.Shape(u, start=2), axis=0)
    forest = _forest(parent)
    blocks = _blocks(forest)
    source, w = (op.Gather(op.Reshape(x, rows), blocks.vertex) for x in (u, weight))
    # From here on, [V, D] in the order of the blocks. A root weighs 0.
    head_parent = blocks.level(blocks.parent, 0)
    own = op.Slice(blocks.head, op.Constant(value_ints=[0]), blocks.ends[0])
    inner = op.Cast(op.Not(op.Equal(head_parent, own)), to=FLOAT.dtype)
    levels = [op.Mul(blocks.level(w, 0), _column(inner))]
    levels += [blocks.level(w, c) for c in range(1, _LEVELS)]
    w = op.Concat(*levels, axis=0)

    # The product of the weights from each vertex up to below its head, and from each head to the next one.
    nothing = op.Sub(levels[0], levels[0])
    products = [op.Add(nothing, op.Constant(value_float=1.0))]
    for c in range(1, _LEVELS):
        products.append(op.Mul(levels[c], op.Gather(products[-1], blocks.parents[c - 1])))
    product = op.Concat(*products, axis=0)
    head_weight = op.Mul(levels[0], op.Gather(product, head_parent))
    head_above = op.Gather(blocks.head, head_parent)

    # Up: within the blocks, then the heads. Each head adds to its parent, in a block that is walked once more.
    sums = _up(blocks.sums_up(levels, source)[0], head_weight, head_above)
    xi = blocks.sums_up(levels, _add_up(op.Mul(levels[0], sums), head_parent, source))
    h = op.Concat(*xi, axis=0)
    if both:
        # Down: first without what comes from the heads, then the heads, and then what comes from them.
        h = op.Sub(h, op.Mul(op.Mul(w, w), h))
        within = [nothing, blocks.level(h, 1)]
        for c in range(2, _LEVELS):
            passed = op.Mul(levels[c], op.Gather(within[-1], blocks.parents[c - 1]))
            within.append(op.Add(blocks.level(h, c), passed))
        below = op.Concat(*within, axis=0)
        starts = op.Add(blocks.level(h, 0), op.Mul(levels[0], op.Gather(below, head_parent)))
        heads = _down(starts, head_weight, head_above)
        h = op.Add(below, op.Mul(product, op.Gather(heads, blocks.head)))
    return op.Reshape(op.Gather(h, blocks.place), op.Shape(u))


TRANSLATIONS = {torch.ops.tree_ssm.tree_scan.default: tree_scan}
