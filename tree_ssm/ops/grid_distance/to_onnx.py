"""The distances along the grid's edges in ONNX's standard operators."""

from typing import Any

import torch
from onnxscript import FLOAT, script
from onnxscript.onnx_opset import opset18 as op
from onnxscript.values import Opset


@script(Opset("tree_ssm", 1))
def _distances(
    x: FLOAT["B", "H", "W", "D"],  # noqa: F821
) -> FLOAT["B", "E"]:  # noqa: F821
    """exp(-cosine) of the ends of every vertical edge, then of every horizontal one, each row by row."""
    unit = x / op.Max(op.ReduceL2(x, op.Constant(value_ints=[3])), 1e-8)
    vertical = op.ReduceSum(unit[:, :-1] * unit[:, 1:], op.Constant(value_ints=[3]), keepdims=0)
    horizontal = op.ReduceSum(unit[:, :, :-1] * unit[:, :, 1:], op.Constant(value_ints=[3]), keepdims=0)
    flat = op.Constant(value_ints=[0, -1])
    # `allowzero` is off: a 0 keeps the batch, even where a grid of one row has no vertical edge.
    return op.Exp(op.Neg(op.Concat(op.Reshape(vertical, flat), op.Reshape(horizontal, flat), axis=1)))


def grid_cosine_distance(x: Any) -> Any:
    """``tree_ssm::grid_cosine_distance``."""
    return _distances(x)


TRANSLATIONS = {torch.ops.tree_ssm.grid_cosine_distance.default: grid_cosine_distance}
