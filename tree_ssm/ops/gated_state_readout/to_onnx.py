"""The readout and the gated norm after it in ONNX's standard operators."""

from typing import Any

import torch

from ssm_core.ops.norm.to_onnx import gated_norm
from tree_ssm.ops.state_readout.to_onnx import state_readout


def gated_state_readout(
    h: Any,
    x: Any,
    C: Any,
    D: Any,
    weight: Any,
    bias: Any,
    eps: float,
    gate: Any,
    out_weight: Any,
    out_bias: Any,
    out_eps: float,
) -> Any:
    """``tree_ssm::gated_state_readout``."""
    return gated_norm(state_readout(h, x, C, D, weight, bias, eps), gate, out_weight, out_bias, out_eps, True)


TRANSLATIONS = {torch.ops.tree_ssm.gated_state_readout.default: gated_state_readout}
