"""Builds models whose arguments come from a file, so that the file decides neither memory nor time beyond its own size.

Everything is compared with the tensors of the file before memory is taken for the model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core.errors import CheckpointError
from ssm_core.weights import misfit

_LARGEST = 1 << 24  # widths and numbers of classes beyond this are no model's
_LONGEST = 64  # stages, and letters of a choice
# What constructors raise for arguments out of their range. Sizes that no machine has overflow or cannot be allocated.
_REFUSALS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)


def build_described(
    build: Callable[..., nn.Module], arguments: Mapping[str, Any], state: Mapping[str, Tensor], path: str | Path
) -> nn.Module:
    """Build the network that a file describes, if the file has exactly its weights.

    Args:
        build: the constructor.
        arguments: its arguments, from the file.
        state: the weights in the file.
        path: the file, for messages.

    Raises:
        CheckpointError: see :func:`check_described`.
    """
    check_described(build, arguments, state, path)
    return build(**arguments)


def check_described(
    build: Callable[..., nn.Module], arguments: Mapping[str, Any], state: Mapping[str, Tensor], path: str | Path
) -> None:
    """Check that a file has exactly the weights of the network that it describes. No memory is taken for the network.

    The arguments are those of :func:`build_described`.

    Raises:
        CheckpointError: the arguments are none that the constructor takes, or their network has other weights.
    """
    shapes = described_shapes(build, arguments, state, path)
    names, words = misfit(shapes, state)
    if names:
        raise CheckpointError(
            f"{path} does not fit its {build.__name__}: {len(names)} tensors differ, the first: {words}"
        )


def described_shapes(
    build: Callable[..., nn.Module], arguments: Mapping[str, Any], state: Mapping[str, Tensor], path: str | Path
) -> dict[str, Tensor]:
    """The state dict, without values, of the network that a file describes. No memory is taken for it.

    Args:
        build: the constructor.
        arguments: its arguments, from the file.
        state: the weights in the file. Each block of the network needs one of them at least.
        path: the file, for messages.

    Raises:
        CheckpointError: the arguments are none that the constructor takes, or are out of proportion to the file.
    """
    for name, value in arguments.items():
        _check_argument(str(name), value, path)
    depths = arguments.get("depths") or ()
    if (
        isinstance(depths, int | float | str)
        or not all(type(depth) is int for depth in depths)
        or sum(depths) > len(state)
    ):
        raise CheckpointError(
            f"{path} describes a network of {depths} blocks and has {len(state)} tensors, fewer than one for each block"
        )
    try:
        with torch.device("meta"):
            return build(**arguments).state_dict()
    except _REFUSALS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} describes a model that cannot be built: {reason}") from error


def _check_argument(name: str, value: Any, path: str | Path) -> None:
    """Raise unless a value is a number, a text, or a short list of them."""
    items = value if isinstance(value, list | tuple) else (value,)
    if len(items) > _LONGEST or any(isinstance(item, str) and len(item) > _LONGEST for item in items):
        raise CheckpointError(f"{path} describes a model that cannot be built: {name} is too long")
    if not all(item is None or isinstance(item, bool | int | float | str) for item in items):
        raise CheckpointError(f"{path} describes a model that cannot be built: {name} is no number or text")
    if any(isinstance(item, int | float) and not abs(item) <= _LARGEST for item in items):
        raise CheckpointError(f"{path} describes a model that cannot be built: {name} is beyond {_LARGEST}")
