"""Finds the packages that have operators, and checks every operator on a device."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import ssm_core
from ssm_core.ops.registry import Operator, has_kernel

from .comparison import Difference, differences


@dataclass(frozen=True)
class Verdict:
    """What came of the check of an operator's forward or backward pass.

    Attributes:
        name: the operator's qualified name.
        which: ``"forward"`` or ``"backward"``.
        worst: the difference that is largest beside its limit; None if there was an error.
        error: the message of an error that ended the check.
    """

    name: str
    which: str
    worst: Difference | None = None
    error: str | None = None

    @property
    def right(self) -> bool:
        """Whether the operator ran and is within its limits."""
        return self.worst is not None and self.worst.excess <= 1


def packages(root: Path = Path(ssm_core.__file__).parents[1]) -> list[str]:
    """The modules that register operators: ``ops`` of this package and of those beside it.

    They are found by their files, ``<package>/ops/<operator>/register.py``, so that it makes no difference whether they
    were installed or are on ``PYTHONPATH``.

    Args:
        root: the folder of the packages.
    """
    declarations = root.glob("*/ops/*/register.py")
    found = {path.relative_to(root).parts[0] for path in declarations if "ssm_core.ops.registry" in path.read_text()}
    return [f"{name}.ops" for name in sorted(found)]


def import_packages() -> dict[str, str]:
    """Import the modules that register operators.

    Returns:
        The message of the error by the name of each module that does not import.
    """
    failed = {}
    for name in packages():
        try:
            importlib.import_module(name)
        except ImportError as error:
            failed[name] = str(error)
    return failed


def check(operator: Operator, device: torch.device) -> Iterator[Verdict]:
    """Compare an operator's kernels with its reference, on every example and in every dtype.

    Args:
        operator: a declared operator.
        device: where the kernels run.

    Yields:
        A verdict for the forward pass, and one for the backward pass if there is one. None if the library has no kernel
        of the operator for the device.
    """
    if not has_kernel(operator.name, device.type) or operator.examples is None:
        return
    worst: dict[str, Difference] = {}
    error = None
    try:
        for example in operator.examples():
            for which, difference in differences(example, device):
                if which not in worst or difference.excess >= worst[which].excess:
                    worst[which] = difference
    except Exception as failure:  # whatever a broken library raises is a finding
        error = f"{type(failure).__name__}: {str(failure).strip().splitlines()[0] if str(failure) else ''}"
    for which, difference in worst.items():
        yield Verdict(operator.name, which, difference)
    if error is not None:
        yield Verdict(operator.name, "forward and backward", error=error)


def answers(device: torch.device) -> bool:
    """Whether a device still works. After some errors a GPU's context is lost, and every later call fails too."""
    try:
        return float(torch.ones(1, device=device).sum()) == 1
    except RuntimeError:
        return False
