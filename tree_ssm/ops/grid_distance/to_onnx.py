"""The distances along the grid's edges in ONNX's standard operators."""

from typing import Any

import torch
from onnxscript import FLOAT, script
from onnxscript.onnx_opset import opset18 as op
from onnxscript.values import Opset


@script(Opset("tree_ssm", 1))
def _distances(
    x: FLOAT[...],  # [B, H, W, D]
) -> FLOAT[...]:  # [B, E]
    """exp(-cosine) along every vertical edge, then along every horizontal one, each row by row."""
    channels = op.Constant(value_ints=[3])
    # The operations round as in the reference and the kernels, so that edges of equal weight there are equal here.
    scale = op.Reciprocal(op.Max(op.Sqrt(op.ReduceSum(x * x, channels, keepdims=0)), 1e-8))
    vertical = op.ReduceSum(x[:, :-1] * x[:, 1:], channels, keepdims=0) * scale[:, :-1] * scale[:, 1:]
    horizontal = op.ReduceSum(x[:, :, :-1] * x[:, :, 1:], channels, keepdims=0) * scale[:, :, :-1] * scale[:, :, 1:]
    flat = op.Constant(value_ints=[0, -1])
    # Without `allowzero` a 0 keeps the batch's size, even if a grid of one row has no vertical edge.
    return op.Exp(op.Neg(op.Concat(op.Reshape(vertical, flat), op.Reshape(horizontal, flat), axis=1)))


def grid_cosine_distance(x: Any) -> Any:
    """``tree_ssm::grid_cosine_distance``."""
    return _distances(x)


TRANSLATIONS = {torch.ops.tree_ssm.grid_cosine_distance.default: grid_cosine_distance}
