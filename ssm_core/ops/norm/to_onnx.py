"""The norms in ONNX's standard operators."""

from typing import Any

import torch
from onnxscript import ir
from onnxscript.onnx_opset import opset18 as op

from ssm_core.ops.registry import Table


def _cast(value: Any, dtype: Any) -> Any:
    # The translator passes torch's types on, as numbers of ONNX.
    return op.Cast(value, to=int(dtype))


def _norm(x: Any, weight: Any, bias: Any, eps: float, centred: bool) -> Any:
    """The norm of a map in float32."""
    if centred:
        # The other two results are the mean and the inverse deviation.
        normed, *_ = op.LayerNormalization(x, weight, bias, axis=-1, epsilon=eps)
        return normed
    square = op.ReduceMean(op.Mul(x, x), op.Constant(value_ints=[-1]))
    return op.Mul(op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(square, op.Constant(value_float=eps))))), weight)


def norm(x: Any, weight: Any, bias: Any, eps: float, centred: bool, dtype: Any) -> Any:
    """``ssm_core::norm``."""
    return _cast(_norm(_cast(x, ir.DataType.FLOAT), weight, bias, eps, centred), dtype)


def gated_norm(x: Any, gate: Any, weight: Any, bias: Any, eps: float, centred: bool) -> Any:
    """``ssm_core::gated_norm``."""
    z = _cast(gate, ir.DataType.FLOAT)
    normed = _norm(_cast(x, ir.DataType.FLOAT), weight, bias, eps, centred)
    return op.CastLike(op.Mul(normed, op.Mul(z, op.Sigmoid(z))), x)


def residual_norm(
    x: Any, residual: Any, scale: Any, weight: Any, bias: Any, eps: float, centred: bool, dtype: Any
) -> Any:
    """``ssm_core::residual_norm``."""
    branch = _cast(x, ir.DataType.FLOAT)
    if scale is not None:
        branch = op.Mul(branch, op.Unsqueeze(scale, op.Constant(value_ints=[1, 2])))
    stream = op.CastLike(op.Add(_cast(residual, ir.DataType.FLOAT), branch), residual)
    return _cast(_norm(_cast(stream, ir.DataType.FLOAT), weight, bias, eps, centred), dtype), stream


TRANSLATIONS: Table = {
    torch.ops.ssm_core.norm.default: norm,
    torch.ops.ssm_core.gated_norm.default: gated_norm,
    torch.ops.ssm_core.residual_norm.default: residual_norm,
}
