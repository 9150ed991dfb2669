"""What every operator declares about itself, for those who need a list: the doctor, FLOP counts, export.

The folder of an operator describes it by an :class:`Operator` and passes that to :func:`register` when it is imported.
There is no other list of operators.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils.flop_counter import register_flop_formula

from ssm_core import _ext

if TYPE_CHECKING:
    from .example import Example

Shape = Sequence[int]
Table = dict[OpOverload, Callable[..., Any]]


class Work(enum.Enum):
    """What the FLOPs of an operator are spent on; papers differ in which of these they count."""

    SCAN = enum.auto()  # a recurrence along a sequence or along a tree
    TREE = enum.auto()  # growing a spanning tree: the weights of its edges, and comparisons
    OTHER = enum.auto()


@dataclass(frozen=True)
class Operator:
    """An operator of the compiled library and what others have to know about it.

    Attributes:
        name: its qualified name, such as ``"ssm_core::selective_scan"``.
        needs: other operators that the library has to define for this one to work, such as its backward pass.
        work: what its FLOPs are spent on.
        flops: by qualified name, the FLOPs as a function of the arguments' shapes. ``FlopCounterMode`` counts a
            multiply-add as two FLOPs, and so do these.
        onnx: gives the operator's form in ONNX, a table for ``torch.onnx.export``. It is a function so that
            onnxscript is imported by the export alone.
        without_python: what replaces an operator that is implemented in Python, in graphs that run without Python.
        examples: gives inputs on which the doctor compares the kernels with the reference. It is a function because
            the examples call the public function, whose module imports this declaration.
        device_types: the types of devices that the operator has a kernel for, in a library with CUDA.
    """

    name: str
    needs: tuple[str, ...] = ()
    work: Work = Work.OTHER
    flops: Mapping[str, Callable[..., int]] = field(default_factory=dict)
    onnx: Callable[[], Table] | None = None
    without_python: Callable[..., Any] | None = None
    examples: "Callable[[], Sequence[Example]] | None" = None
    device_types: tuple[str, ...] = ("cpu", "cuda")


# By name, in the order of registration: all operators, and those that the compiled library defines.
_DECLARED: dict[str, Operator] = {}
_COMPILED: dict[str, Operator] = {}


def register(operator: Operator) -> bool:
    """Declare an operator, and find out whether the compiled library defines it and all that it needs.

    If the library lacks any of them there is a warning, and the operator's reference is used from then on.

    Returns:
        Whether the library defines all of them. Only then can its fake, autograd and autocast rules be registered.

    Raises:
        ValueError: an operator of this name is registered already.
    """
    if operator.name in _DECLARED:
        raise ValueError(f"the operator {operator.name} is registered already")
    _DECLARED[operator.name] = operator
    if not _ext.defines((operator.name, *operator.needs)):
        return False
    for name, formula in operator.flops.items():
        register_flop_formula(_packet(name))(formula)
    _COMPILED[operator.name] = operator
    return True


def declared() -> list[Operator]:
    """All operators that were registered so far, also those that the compiled library lacks."""
    return list(_DECLARED.values())


def is_compiled(name: str) -> bool:
    """Whether the compiled library defines a registered operator and all that it needs.

    Args:
        name: the operator's qualified name.
    """
    return name in _COMPILED


# torch.compile calls this once while it traces, since a graph cannot ask the dispatcher.
@torch.compiler.assume_constant_result
def has_kernel(name: str, device_type: str) -> bool:
    """Whether the compiled library has a kernel of a registered operator for a device type.

    Args:
        name: the operator's qualified name.
        device_type: ``"cpu"`` or ``"cuda"``.
    """
    return name in _COMPILED and torch._C._dispatch_has_kernel_for_dispatch_key(name, device_type.upper())


def work_of_operators() -> dict[OpOverloadPacket, Work]:
    """What FLOPs are spent on, for every operator with a formula, by the keys of ``FlopCounterMode``'s counts."""
    return {_packet(name): operator.work for operator in _COMPILED.values() for name in operator.flops}


def onnx_translations() -> Table:
    """The operators' forms in ONNX, as the ``custom_translation_table`` of ``torch.onnx.export``.

    Raises:
        ModuleNotFoundError: onnxscript is not installed.
    """
    table: Table = {}
    for operator in _COMPILED.values():
        if operator.onnx is not None:
            table.update(operator.onnx())
    return table


def decompositions() -> Table:
    """What replaces the operators that are implemented in Python, for ``ExportedProgram.run_decompositions``.

    A graph in which they are replaced needs nothing but the compiled library.
    """
    replaced = ((op.name, op.without_python) for op in _COMPILED.values())
    return {_packet(name).default: function for name, function in replaced if function is not None}


def _packet(name: str) -> OpOverloadPacket:
    """The operator that ``torch.ops`` has by a qualified name."""
    namespace, _, operator = name.partition("::")
    return getattr(getattr(torch.ops, namespace), operator)
