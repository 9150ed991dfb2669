"""The quadtree's token order in ONNX's standard operators, for any height and width."""

from collections.abc import Sequence
from typing import Any

import torch
from onnxscript import INT64, script
from onnxscript.onnx_opset import opset18 as op
from onnxscript.values import Opset

from ssm_core.ops.registry import Table


@script(Opset("quadtree_ssm", 1))
def _order(
    choice: INT64[...],  # [B]
    height: INT64,
    width: INT64,
    levels: INT64,
    shift_y: INT64,
    shift_x: INT64,
) -> INT64[...]:  # [B, L]
    """Sort the places by (quadrant, sub-quadrant in the chosen quadrant, row, column), as the reference does."""
    row = op.Unsqueeze(op.Range(0, height, 1), 1)
    column = op.Unsqueeze(op.Range(0, width, 1), 0)
    # The half of its side that a place is in, its place there and that half's size; then the same within the half.
    top, left = (height + 1) / 2, (width + 1) / 2
    lower, right = row >= top, column >= left
    row_in, column_in = op.Where(lower, row - top, row), op.Where(right, column - left, column)
    rows, columns = op.Where(lower, height - top, top), op.Where(right, width - left, left)
    lower_in = op.Cast(row_in >= (rows + 1) / 2, to=INT64.dtype)
    right_in = op.Cast(column_in >= (columns + 1) / 2, to=INT64.dtype)
    quadrant = op.Where(levels >= 1, op.Cast(lower, to=INT64.dtype) * 2 + op.Cast(right, to=INT64.dtype), 0)
    split = op.And(op.Equal(quadrant, op.Reshape(choice, op.Constant(value_ints=[-1, 1, 1]))), levels >= 2)
    window = quadrant * 4 + op.Where(split, lower_in * 2 + right_in, 0)  # [B, H, W]
    # The token at each place of the rolled map.
    token = op.Mod(row - shift_y, height) * width + op.Mod(column - shift_x, width)
    length = height * width
    key = op.Reshape(window * length + row * width + column, op.Constant(value_ints=[0, -1]))
    _, place = op.TopK(key, op.Reshape(length, op.Constant(value_ints=[1])), axis=1, largest=0)
    return op.Gather(op.Reshape(token, op.Constant(value_ints=[-1])), place)


def quadtree_order(choice: Any, height: Any, width: Any, levels: int, shift_y: Any, shift_x: Any) -> Any:
    """``quadtree_ssm::quadtree_order``; the arguments are those of its schema."""
    return _order(choice, height, width, levels, shift_y, shift_x)


def roll(x: Any, shifts: Sequence[Any], dims: Sequence[int]) -> Any:
    """``aten::roll`` by shifts that depend on the map's size, which torch's own translation does not take."""
    for shift, axis in zip(shifts, dims, strict=True):
        by = op.Constant(value_ints=[shift]) if isinstance(shift, int) else op.Reshape(shift, [-1])
        length = op.Shape(x, start=axis, end=axis + 1)
        cut = op.Mod(op.Neg(by), length)
        x = op.Concat(op.Slice(x, cut, length, [axis]), op.Slice(x, [0], cut, [axis]), axis=axis)
    return x


TRANSLATIONS: Table = {
    torch.ops.quadtree_ssm.quadtree_order.default: quadtree_order,
    torch.ops.aten.roll.default: roll,
}
