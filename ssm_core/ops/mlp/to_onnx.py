"""The MLP in ONNX's standard operators."""

from typing import Any

import torch
from onnxscript.onnx_opset import opset20 as op

from ssm_core.ops.registry import Table


def mlp(x: Any, weight1: Any, bias1: Any, weight2: Any, bias2: Any) -> Any:
    """``ssm_core::mlp``."""
    u = op.Add(op.MatMul(x, op.Transpose(weight1, perm=[1, 0])), op.CastLike(bias1, x))
    return op.Add(op.MatMul(op.Gelu(u), op.Transpose(weight2, perm=[1, 0])), op.CastLike(bias2, x))


TRANSLATIONS: Table = {torch.ops.ssm_core.mlp.default: mlp}
