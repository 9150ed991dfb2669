"""Which implementation of an operator runs, and what only one of them can."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from ssm_core import _ext

from .checks import require


def choose_backend(op: str, kernel: str, backend: str, device: torch.device) -> str:
    """Resolve ``backend`` to ``"cuda"``, ``"cpu"`` or ``"reference"`` for tensors on ``device``.

    Args:
        op: the public function's name, for messages.
        kernel: the operator's qualified name, such as ``"ssm_core::selective_scan"``.
        backend: ``"auto"`` for the compiled kernel where there is one and else, with one warning, the reference; or
            one of the three by name.
        device: where the tensors are.

    Raises:
        ValueError: the backend is unknown, not built, or not that device's.
    """
    if backend == "auto":
        if device.type in ("cpu", "cuda") and _ext.has(device.type, kernel):
            return device.type
        _ext.warn_slow(op, device.type)
        return "reference"
    known = ("cpu", "cuda", "reference")
    require(backend in known, op, f"backend must be one of auto, {', '.join(known)}, got {backend!r}")
    if backend != "reference":
        require(device.type == backend, op, f"backend {backend!r} was asked for but the tensors are on {device}")
        require(_ext.has(backend, kernel), op, f"backend {backend!r} was asked for but its kernel is not built")
    return backend


def no_second_derivative(op: str) -> Callable[..., NoReturn]:
    """What to register as the derivative of a backward kernel: the sentence that says who has one.

    Args:
        op: the public function's name.
    """

    def refuse(ctx: Any, *gradients: Any) -> NoReturn:
        raise NotImplementedError(
            f"{op}: the compiled kernel has no second derivative; call it with backend='reference' to get one"
        )

    return refuse
