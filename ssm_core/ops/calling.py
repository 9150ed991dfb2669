"""Calls compiled operators, whose kernels find out that values are wrong when they read them."""

from collections.abc import Callable
from typing import Any

# How a kernel's message begins if it is about values (SSM_CHECK_VALUE in csrc/common/checks.h).
_ABOUT_VALUES = "ValueError: "


def call(operator: Callable[..., Any], *args: Any) -> Any:
    """Call an operator, and raise what its kernel says of values as Python's own checks do.

    torch's stable ABI lets a kernel raise a ``RuntimeError`` alone. In a compiled graph, which has no Python around its
    operators, it stays one.

    Args:
        operator: one of ``torch.ops``.
        args: its arguments.

    Raises:
        ValueError: values do not fit; the message is the kernel's.
    """
    try:
        return operator(*args)
    except RuntimeError as error:
        if not str(error).startswith(_ABOUT_VALUES):
            raise
        raise ValueError(str(error).removeprefix(_ABOUT_VALUES)) from None
