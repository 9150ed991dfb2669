"""Operators both families use."""

from .conv_norm_gelu import conv_norm_gelu
from .depthwise_conv import depthwise_conv
from .mlp import mlp
from .norm import gated_layer_norm, gated_rms_norm, layer_norm, residual_layer_norm, residual_rms_norm, rms_norm
from .selective_scan import directional_scan, selective_scan

__all__ = [
    "conv_norm_gelu",
    "depthwise_conv",
    "directional_scan",
    "gated_layer_norm",
    "gated_rms_norm",
    "layer_norm",
    "mlp",
    "residual_layer_norm",
    "residual_rms_norm",
    "rms_norm",
    "selective_scan",
]
