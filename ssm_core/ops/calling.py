"""Calls compiled operators, whose kernels find out that values are wrong when they read them."""

from collections.abc import Callable
from typing import Any

NO_TORCHSCRIPT = (
    "TorchScript error: TorchScript does not know the operators of this network: use torch.export, as tree-ssm export "
    "does, or torch.compile"
)
_UNKNOWN_TO_TRACER = "Tracing a list of bool type"  # how torch.jit.trace says that it does not
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
        RuntimeError: ``torch.jit.trace`` cannot record the operator.
    """
    try:
        return operator(*args)
    except RuntimeError as error:
        if str(error).startswith(_UNKNOWN_TO_TRACER):
            raise RuntimeError(NO_TORCHSCRIPT) from None
        if not str(error).startswith(_ABOUT_VALUES):
            raise
        raise ValueError(str(error).removeprefix(_ABOUT_VALUES)) from None
