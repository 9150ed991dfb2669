"""Operators both families use."""

from .norm import gated_layer_norm, gated_rms_norm, layer_norm, residual_layer_norm, residual_rms_norm, rms_norm
from .selective_scan import directional_scan, selective_scan

__all__ = [
    "directional_scan",
    "gated_layer_norm",
    "gated_rms_norm",
    "layer_norm",
    "residual_layer_norm",
    "residual_rms_norm",
    "rms_norm",
    "selective_scan",
]
