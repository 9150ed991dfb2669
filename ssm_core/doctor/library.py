"""What the compiled library was built with and for, and whether that fits this machine."""

import torch

from ssm_core import _ext
from ssm_core.ops.registry import Operator, has_kernel, is_compiled

from .findings import PAGE, Finding, build_command

_PAGE = f"{PAGE}#installing"


def fit(card: str, capability: tuple[int, int], compiled: tuple[int, int]) -> Finding | None:
    """Say whether a GPU runs code of an older generation, which only PTX allows.

    Args:
        card: its name.
        capability: its compute capability.
        compiled: the compute capability that its kernels were compiled for.
    """
    if compiled[0] == capability[0]:
        return None
    here, older = (".".join(map(str, version)) for version in (capability, compiled))
    return Finding(
        f"The library has no code for {card} ({here}), which runs the PTX for {older}. The driver compiles it, so the "
        "first use takes minutes, and what newer cards add is not used.",
        f"To build for this card: {build_command(here)}",
        _PAGE,
        is_problem=False,
    )


def fit_of(device: torch.device) -> Finding | None:
    """Say whether the library has code for a GPU of this machine: a problem if it has none, a note if it is older.

    Args:
        device: the GPU.
    """
    if "architectures" not in _ext.build_info():
        return None  # a library without CUDA, which is told of by lacks_kernels
    index = torch.cuda.current_device() if device.index is None else device.index
    capability = torch.cuda.get_device_capability(index)
    try:
        compiled = _ext.kernel_architecture(index)
    except RuntimeError as error:
        command = build_command(".".join(map(str, capability)))
        return Finding(f"{str(error).splitlines()[0]}.", f"Run: {command}", _PAGE)
    return fit(torch.cuda.get_device_name(index), capability, compiled)


def examine() -> tuple[list[str], list[Finding]]:
    """Lines on the library, and what is wrong with it."""
    library = _ext._find()
    if library is None:
        what = "There is no compiled library. Results are right and slow."
        return ["none: every operator runs its PyTorch reference"], [Finding(what, f"Run: {build_command()}", _PAGE)]
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        what = (
            f"{library.name} does not load with torch {torch.__version__} ({error.__cause__ or error}). It needs "
            "torch 2.10 or newer. Results are right and slow."
        )
        return [f"{library}, which does not load"], [Finding(what, f"Run: {build_command()}", _PAGE)]
    info = _ext.build_info()
    lines = [str(library)]
    if info:
        cuda = f"CUDA {info['cuda']} for {info['architectures'].replace(';', ', ')}" if "cuda" in info else "no CUDA"
        lines.append(f"built with torch {info['torch']} by {info['compiler']}, {cuda}")
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
    return line, [Finding(what, f"Run: {build_command()}", _PAGE)]


def lacks_kernels(operators: list[Operator], device_type: str, architecture: str | None) -> tuple[str, list[Finding]]:
    """A line on the operators that have a kernel for a type of device, and a problem if some should and do not.

    Args:
        operators: all that are declared.
        device_type: ``"cpu"`` or ``"cuda"``.
        architecture: the compute capability of the GPU, such as ``"9.0"``; None for a CPU.
    """
    expected = [op.name for op in operators if device_type in op.device_types and is_compiled(op.name)]
    lacking = [name for name in expected if not has_kernel(name, device_type)]
    if not expected:
        return "nothing to compare, since there is no kernel", []
    line = f"kernels for {device_type}: {len(expected) - len(lacking)} of {len(expected)}"
    if not lacking:
        return line, []
    what = f"The library has no {device_type} kernel of {', '.join(lacking)}, which run their slow references."
    if device_type == "cuda" and lacking == expected:
        what = "The library was built without CUDA, and all operators run their slow references on the GPU."
    return line, [Finding(what, f"Run: {build_command(architecture)}", _PAGE)]
