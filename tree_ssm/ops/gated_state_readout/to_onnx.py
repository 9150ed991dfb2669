"""The readout and the gated norm after it in ONNX's standard operators."""

from typing import Any

import torch

from ssm_core.ops.registry import onnx_translations


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
    form_of = onnx_translations()
    r = form_of[torch.ops.tree_ssm.state_readout.default](h, x, C, D, weight, bias, eps)
    return form_of[torch.ops.ssm_core.gated_norm.default](r, gate, out_weight, out_bias, out_eps, True)


TRANSLATIONS = {torch.ops.tree_ssm.gated_state_readout.default: gated_state_readout}
