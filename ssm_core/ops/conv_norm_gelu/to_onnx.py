"""The stem's first half in ONNX's standard operators."""

from typing import Any

import torch
from onnxscript import ir
from onnxscript.onnx_opset import opset20 as op

from ssm_core.ops.registry import Table


def conv_norm_gelu(images: Any, weight: Any, bias: Any, norm_weight: Any, norm_bias: Any, eps: float) -> Any:
    """``ssm_core::conv_norm_gelu``."""
    convolved = op.Conv(
        op.CastLike(images, weight), weight, op.CastLike(bias, weight), kernel_shape=[3, 3], pads=[1, 1, 1, 1],
        strides=[2, 2],
    )  # fmt: skip
    x = op.Cast(op.Transpose(convolved, perm=[0, 2, 3, 1]), to=int(ir.DataType.FLOAT))
    # The other two results are the mean and the inverse deviation.
    normed, *_ = op.LayerNormalization(x, norm_weight, norm_bias, axis=-1, epsilon=eps)
    return op.CastLike(op.Gelu(normed), weight)


TRANSLATIONS: Table = {torch.ops.ssm_core.conv_norm_gelu.default: conv_norm_gelu}
