"""The depthwise convolution with SiLU in ONNX's standard operators."""

from typing import Any

import torch
from onnxscript import ir
from onnxscript.onnx_opset import opset18 as op

from ssm_core.ops.registry import Table


def depthwise_conv(x: Any, weight: Any, bias: Any) -> Any:
    """``ssm_core::depthwise_conv``."""
    channels_first = op.Transpose(op.Cast(x, to=ir.DataType.FLOAT), perm=[0, 3, 1, 2])
    windows = op.Unsqueeze(weight, op.Constant(value_ints=[1]))
    p = op.Conv(channels_first, windows, bias, group=weight.shape[0], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return op.CastLike(op.Transpose(op.Mul(p, op.Sigmoid(p)), perm=[0, 2, 3, 1]), x)


TRANSLATIONS: Table = {torch.ops.ssm_core.depthwise_conv.default: depthwise_conv}
