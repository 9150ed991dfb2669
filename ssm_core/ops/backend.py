"""Which implementation of an operator runs."""

from typing import Literal

import torch

from ssm_core import _ext

from .registry import has_kernel

Backend = Literal["auto", "cuda", "cpu", "reference"]


def choose_backend(op: str, kernel: str, backend: str, device: torch.device) -> Literal["cuda", "cpu", "reference"]:
    """Resolve ``backend`` to ``"cuda"``, ``"cpu"`` or ``"reference"`` for tensors on ``device``.

    Args:
        op: the public function's name, for messages.
        kernel: the qualified name of a registered operator, such as ``"ssm_core::selective_scan"``.
        backend: ``"auto"`` takes the compiled kernel where there is one; where there is none it warns once and takes
            the reference. Any other name asks for that backend.
        device: where the tensors are.

    Raises:
        ValueError: the backend is unknown or not built, or the tensors are on another device.
    """
    # Tensors without values get the shapes that the kernels of the CPU would give.
    place = "cpu" if device.type == "meta" else device.type
    if backend == "auto":
        if place == "cuda" and has_kernel(kernel, "cuda"):
            return "cuda"
        if place == "cpu" and has_kernel(kernel, "cpu"):
            return "cpu"
        _ext.warn_slow(op, device.type)
        return "reference"
    if backend == "reference":
        return "reference"
    if backend != "cpu" and backend != "cuda":
        raise ValueError(f"{op}: backend must be one of auto, cpu, cuda, reference, got {backend!r}")
    if place != backend:
        raise ValueError(f"{op}: backend {backend!r} was asked for but the tensors are on {device}")
    if not has_kernel(kernel, backend):
        raise ValueError(f"{op}: backend {backend!r} was asked for but its kernel is not built")
    return "cuda" if backend == "cuda" else "cpu"
