"""The tree scan in ONNX's standard operators, in a number of steps logarithmic in the tree's depth."""

from typing import Any

import torch
from onnxscript import BOOL, FLOAT, INT64, script
from onnxscript.onnx_opset import opset18 as op
from onnxscript.values import Opset

_DOMAIN = Opset("tree_ssm", 1)


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
    xi: FLOAT[...],  # [V, D]
    weight: FLOAT[...],  # [V, D]
    parent: INT64[...],  # [V]
) -> FLOAT[...]:  # [V, D]
    """The pass down: h_i = (1 - w_i²) ξ_i + w_i h_parent, by the same doubling in the other direction."""
    h, w, ancestor = xi - weight * weight * xi, op.Identity(weight), op.Identity(parent)
    active = op.Cast(1, to=BOOL.dtype)
    while active:
        h = h + w * op.Gather(h, ancestor)
        above = op.Gather(ancestor, ancestor)
        active = op.Cast(op.ReduceMax(op.Abs(above - ancestor), keepdims=0), to=BOOL.dtype)
        w = w * op.Gather(w, ancestor)
        ancestor = above
    return h


@script(_DOMAIN)
def _rows(
    u: FLOAT[...],  # [B, L, D]
    weight: FLOAT[...],  # [B, L, D]
    parent: INT64[...],  # [B, L]
) -> tuple[FLOAT[...], FLOAT[...], INT64[...]]:  # [V, D]; [V, D]; [V]
    """The vertices of all samples as one forest, in which the roots weigh 0."""
    rows = op.Concat(op.Constant(value_ints=[-1]), op.Shape(u, start=2), axis=0)
    length = op.Shape(u, start=1, end=2)
    vertex = op.Range(0, op.Squeeze(length), 1)
    inner = op.Unsqueeze(op.Cast(op.Not(op.Equal(parent, vertex)), to=FLOAT.dtype), op.Constant(value_ints=[2]))
    samples = op.Range(0, op.Squeeze(op.Shape(u, end=1)), 1)
    above = parent + op.Unsqueeze(samples, op.Constant(value_ints=[1])) * length
    return (
        op.Reshape(u, rows),
        op.Reshape(weight * inner, rows),
        op.Reshape(above, op.Constant(value_ints=[-1])),
    )


def tree_scan(u: Any, weight: Any, parent: Any, order: Any, both: bool, schedule: Any = None) -> Any:
    """``tree_ssm::tree_scan`` in float32; it does not need the order."""
    rows, w, above = _rows(u, weight, parent)
    h = _up(rows, w, above)
    if both:
        h = _down(h, w, above)
    return op.Reshape(h, op.Shape(u))


TRANSLATIONS = {torch.ops.tree_ssm.tree_scan.default: tree_scan}
