"""Argument checks that the operators' public functions and their fake rules share.

An operator raises ``ValueError`` by a plain ``if``, so that the message is put together only when there is an error.
"""

from numbers import Integral

import torch
from torch import Tensor

# What the kernels and the references take. PyTorch's own operators know little of narrower floats (float8).
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (int, torch.SymInt, Integral)  # the last has those of NumPy


def shape_of(x: Tensor) -> tuple[int, ...]:
    """The shape as a plain tuple, for messages."""
    return tuple(x.shape)


def require_same_device(op: str, **tensors: Tensor | None) -> None:
    """Raise ``ValueError`` for the first argument that is complex, is float8 or is not on the first one's device.

    Args:
        op: the public function's name, for the message.
        tensors: the arguments by name; None for one that was left out. Integers are allowed.
    """
    given = [(name, x) for name, x in tensors.items() if x is not None]
    first_name, first = given[0]
    for name, x in given:
        if x.is_complex():
            raise ValueError(f"{op}: {name} must be real, got {x.dtype}")
        if x.dtype.is_floating_point and x.dtype not in FLOATS:
            raise ValueError(f"{op}: {name} must be float64, float32, bfloat16 or float16, got {x.dtype}")
        if x.device != first.device:
            raise ValueError(f"{op}: {name} is on {x.device} but {first_name} is on {first.device}; move it there")


def require_integers(op: str, **numbers: object) -> None:
    """Raise ``ValueError`` for the first argument that is no integer. ``3.0`` is none.

    Args:
        op: the public function's name, for the message.
        numbers: the arguments by name.
    """
    for name, number in numbers.items():
        # While torch.jit.trace records a call, sizes are tensors.
        if not isinstance(number, _INTEGERS) and not torch.jit.is_tracing():  # type: ignore[attr-defined]  # not in its stubs
            raise ValueError(f"{op}: {name} must be an integer, got {number!r}")


def require_shapes(op: str, **tensors: tuple[Tensor | None, str]) -> None:
    """Raise ``ValueError`` for the first tensor whose dimensions do not fit those before it.

    Args:
        op: the operator's name, for the message.
        tensors: by name, a tensor or None, and a letter for each of its dimensions, such as ``"BLD"``. A letter stands
            for one size.
    """
    size: dict[str, int] = {}
    for name, (x, letters) in tensors.items():
        if x is None:
            continue
        if x.dim() != len(letters) or any(size.setdefault(a, s) != s for a, s in zip(letters, x.shape, strict=True)):
            known = [f"{letter} = {size[letter]}" for letter in letters if letter in size]
            form = f"[{', '.join(letters)}]" + (f" with {', '.join(known)}" if known else "")
            raise ValueError(f"{op}: {name} must be {form}, got {shape_of(x)}")


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which scans accumulate and keep parameters: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32
