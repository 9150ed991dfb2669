"""The tree scan in ONNX's standard operators, in blocks of eight levels.

A vertex whose depth is a multiple of eight is a head: the vertices below it, down to the next heads, are its block.
Within all blocks at once, a pass takes one step a level. The heads alone, an eighth of the vertices, form a tree again,
and a pass over it is a product (1 + M)(1 + M²)(1 + M⁴)…, which takes log₂ of its depth in steps. So the work is that of
a few passes over all vertices, whatever the tree's depth.
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
        xi = op.ScatterND(xi, op.Unsqueeze(ancestor, op.Constant(value_ints=[1])), w * xi, reduction="add")
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
def _forest(
    parent: INT64[...],  # [B, L]
) -> INT64[...]:  # [B·L]
    """The vertices of all samples as one forest."""
    samples, length = op.Range(0, op.Squeeze(op.Shape(parent, end=1)), 1), op.Shape(parent, start=1)
    return op.Reshape(
        parent + op.Unsqueeze(samples, op.Constant(value_ints=[1])) * length, op.Constant(value_ints=[-1])
    )


class _Blocks(NamedTuple):
    """The vertices of a forest, sorted by their level in their block."""

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


def _blocks(
    parent: Any,  # [V]
) -> _Blocks:
    """Cut a forest into blocks."""
    level = op.Mod(_depths(parent), op.Constant(value_int=_LEVELS))
    flat = op.Constant(value_ints=[-1])
    levels = [
        op.Reshape(op.NonZero(op.Equal(level, op.Constant(value_int=c))), flat)  # [n]
        for c in range(_LEVELS)
    ]
    vertex = op.Concat(*levels, axis=0)
    number = op.Range(op.Constant(value_int=0), op.Size(vertex), op.Constant(value_int=1))
    place = op.ScatterElements(vertex, vertex, number)
    above = op.Gather(place, op.Gather(parent, vertex))
    ends = [op.Shape(levels[0])]
    for c in range(1, _LEVELS):
        ends.append(op.Add(ends[-1], op.Shape(levels[c])))
    blocks = _Blocks(place, vertex, above, None, ends, [])
    start = op.Constant(value_ints=[0])
    heads = [op.Slice(number, start, ends[0])]
    for c in range(1, _LEVELS):
        blocks.parents.append(op.Sub(blocks.level(above, c), start))
        heads.append(op.Gather(heads[-1], blocks.parents[-1]))
        start = ends[c - 1]
    return blocks._replace(head=op.Concat(*heads, axis=0))


def _column(index: Any) -> Any:
    """An index as ``ScatterND`` takes it."""
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

    # Up: the heads' sums first. Each then adds to its parent, and all levels to the one above them.
    sums = op.ScatterND(nothing, _column(blocks.head), op.Mul(product, source), reduction="add")
    sums = _up(sums, head_weight, head_above)
    source = op.ScatterND(source, _column(head_parent), op.Mul(levels[0], sums), reduction="add")
    xi = [blocks.level(source, _LEVELS - 1)]
    for c in range(_LEVELS - 1, 0, -1):
        moved = op.Mul(levels[c], xi[0])
        xi.insert(0, op.ScatterND(blocks.level(source, c - 1), _column(blocks.parents[c - 1]), moved, reduction="add"))
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
