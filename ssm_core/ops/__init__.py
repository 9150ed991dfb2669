"""Operators both families use."""

from .selective_scan import directional_scan, selective_scan

__all__ = ["directional_scan", "selective_scan"]
