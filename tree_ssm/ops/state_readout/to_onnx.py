"""The readout of the normed state in ONNX's standard operators."""

from typing import Any

import torch
from onnxscript.onnx_opset import opset18 as op


def state_readout(h: Any, x: Any, C: Any, D: Any, weight: Any, bias: Any, eps: float) -> Any:
    """``tree_ssm::state_readout``."""
    # The other two results are the mean and the inverse deviation.
    normed, *_ = op.LayerNormalization(h, weight, bias, axis=-1, epsilon=eps)
    return op.Add(op.Mul(op.Unsqueeze(C, op.Constant(value_ints=[2])), normed), op.Mul(D, x))


TRANSLATIONS = {torch.ops.tree_ssm.state_readout.default: state_readout}
