"""Argument checks that every operator's public function shares."""

import torch
from torch import Tensor


def require(condition: bool, op: str, message: str) -> None:
    """Raise ``ValueError("op: message")`` unless the condition holds."""
    if not condition:
        raise ValueError(f"{op}: {message}")


def shape_of(x: Tensor) -> tuple[int, ...]:
    """The shape as a plain tuple, for messages."""
    return tuple(x.shape)


def require_same_device(op: str, **tensors: Tensor | None) -> None:
    """Raise ``ValueError`` naming the first argument that is on another device than the first one."""
    given = [(name, x) for name, x in tensors.items() if x is not None]
    first_name, first = given[0]
    for name, x in given[1:]:
        if x.device != first.device:
            raise ValueError(f"{op}: {name} is on {x.device} but {first_name} is on {first.device}; move it there")


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the scans compute in, and keep parameters in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
