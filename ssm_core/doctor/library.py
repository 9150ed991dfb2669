"""What the compiled library was built with and for, and whether that fits this machine."""

import re
from typing import NamedTuple

import torch

from ssm_core import _ext
from ssm_core.ops.registry import Operator, has_kernel, is_compiled

from .findings import PAGE, Finding, build_command

_PAGE = f"{PAGE}#installing"


class Architecture(NamedTuple):
    """A GPU architecture that code was compiled for.

    Attributes:
        version: the compute capability, such as (9, 0).
        exact: whether the code runs on this compute capability alone, as that of ``9.0a`` does.
        ptx: whether the library also has PTX of it, which a driver compiles for later cards.
    """

    version: tuple[int, int]
    exact: bool
    ptx: bool


def architectures(names: str) -> list[Architecture]:
    """Read the value of ``TORCH_CUDA_ARCH_LIST``, as far as it has numbers.

    Args:
        names: such as ``"8.0;9.0+PTX"``.
    """
    found = re.findall(r"(\d+)\.(\d)([a-z]?)(\+PTX)?", names)
    return [Architecture((int(major), int(minor)), bool(exact), bool(ptx)) for major, minor, exact, ptx in found]


def fit(card: str, capability: tuple[int, int], names: str) -> Finding | None:
    """Say whether the library has code for a card: of its own major version and no later, or PTX of an earlier one.

    Args:
        card: its name.
        capability: its compute capability.
        names: the value of ``TORCH_CUDA_ARCH_LIST`` that the library was built with.

    Returns:
        A problem if it has none, a note if it has only PTX, and None if it has code.
    """
    known = architectures(names)
    here = f"{capability[0]}.{capability[1]}"
    native = [a for a in known if a.version[0] == capability[0] and a.version[1] <= capability[1]]
    if not known or any(a.version == capability or not a.exact for a in native):
        return None  # names such as "Hopper" are not read
    built = f"it was built for {names.replace(';', ', ')}"
    if any(a.ptx and a.version < capability for a in known):
        return Finding(
            f"The library has only PTX for {card} ({here}): {built}. The driver compiles it, so the first use takes "
            "minutes, and what newer cards add is not used.",
            f"To build for this card: {build_command(here)}",
            _PAGE,
            is_problem=False,
        )
    return Finding(f"The library has no code for {card} ({here}): {built}.", build_command(here), _PAGE)


def fit_of(device: torch.device) -> Finding | None:
    """Say whether the library has code for a GPU of this machine, as far as the library knows what it was built for.

    Args:
        device: the GPU.
    """
    names = _ext.build_info().get("architectures")
    if names is None:
        return None
    return fit(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device), names)


def examine() -> tuple[list[str], list[Finding]]:
    """Lines on the library, and what is wrong with it."""
    library = _ext._find()
    if library is None:
        return ["none: every operator runs its PyTorch reference"], [
            Finding(
                "There is no compiled library. Results are right and slow.",
                f"Build it with `make setup`, or with: {build_command()}",
                _PAGE,
            )
        ]
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return [f"{library}, which does not load"], [
            Finding(
                f"{library.name} does not load with torch {torch.__version__} ({error}). It was probably built for "
                "another torch. Results are right and slow.",
                build_command(),
                _PAGE,
            )
        ]
    info = _ext.build_info()
    lines = [str(library)]
    if info:
        cuda = f"CUDA {info['cuda']} for {info['architectures'].replace(';', ', ')}" if "cuda" in info else "no CUDA"
        lines.append(f"built for torch {info['torch']} by {info['compiler']}, {cuda}")
    here = torch.__version__.split("+")[0]
    if info and info["torch"].split("+")[0] != here:
        return lines, [
            Finding(f"The library was built for torch {info['torch']} and this is {here}.", build_command(), _PAGE)
        ]
    return lines, []


def lacks(operators: list[Operator]) -> tuple[str, list[Finding]]:
    """A line on the operators that the library defines, and a problem if it lacks some of them.

    Args:
        operators: all that are declared.
    """
    absent = [operator.name for operator in operators if not is_compiled(operator.name)]
    line = f"operators: {len(operators) - len(absent)} of {len(operators)}"
    if not absent or len(absent) == len(operators):  # without any library there is another message
        return line, []
    what = f"The library is older than the Python code: it lacks {', '.join(absent)}, which run their slow references."
    return line, [Finding(what, build_command(), _PAGE)]


def lacks_kernels(operators: list[Operator], device_type: str, architecture: str | None) -> tuple[str, list[Finding]]:
    """A line on the operators that have a kernel for a type of device, and a problem if some should and do not.

    Args:
        operators: all that are declared.
        device_type: ``"cpu"`` or ``"cuda"``.
        architecture: the compute capability of the GPU, such as ``"9.0"``; None for a CPU.
    """
    expected = [op.name for op in operators if device_type in op.device_types and is_compiled(op.name)]
    lacking = [name for name in expected if not has_kernel(name, device_type)]
    line = f"kernels for {device_type}: {len(expected) - len(lacking)} of {len(expected)}"
    if not lacking:
        return line, []
    what = f"The library has no {device_type} kernel of {', '.join(lacking)}, which run their slow references."
    if device_type == "cuda" and lacking == expected:
        what = "The library was built without CUDA, and all operators run their slow references on the GPU."
    return line, [Finding(what, build_command(architecture), _PAGE)]
