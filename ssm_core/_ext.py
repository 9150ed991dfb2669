"""Loads the compiled library once and says which operators it defines.

The library registers its operators with ``torch.ops`` when it is loaded, so there is nothing to import from it. Without
the library every operator still works: it runs its PyTorch reference.
"""

import functools
import importlib.machinery
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

HOW_TO_BUILD = (
    "build it with `make setup` in a clone of the repository, or with `pip install .` in an environment that has torch "
    "and a C++ compiler (`tree-ssm doctor` examines what is there)"
)


def _find() -> Path | None:
    """Return the path of the library, or None if it was not built."""
    folder = Path(__file__).parent
    return next((p for s in importlib.machinery.EXTENSION_SUFFIXES if (p := folder / f"_C{s}").exists()), None)


@functools.cache
def load() -> bool:
    """Load the compiled library. Return whether it is there and loads."""
    library = _find()
    if library is None:
        return False
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        warnings.warn(
            f"{library.name} does not load with torch {torch.__version__} ({error.__cause__ or error}); it needs "
            f"torch 2.10 or newer. Using the slow PyTorch references; {HOW_TO_BUILD}.",
            stacklevel=2,
        )
        return False
    return True


def defines(names: Sequence[str]) -> bool:
    """Return whether the compiled library is there and defines all these operators.

    A library that was built from older sources may lack some of them. This causes a warning and no error, because the
    PyTorch references can replace the missing operators.

    Args:
        names: qualified names, such as ``"ssm_core::selective_scan"``.
    """
    library = _find()
    if library is None or not load():
        return False
    missing = [name for name in names if not torch._C._jit_get_schemas_for_operator(name)]
    if missing:
        warnings.warn(
            f"{library.name} is older than the Python code: it lacks {', '.join(missing)}. Using the slow PyTorch "
            f"reference of {names[0]}; {HOW_TO_BUILD}.",
            stacklevel=2,
        )
    return not missing


def build_info() -> dict[str, str]:
    """Return what the compiled library was built with and for, or nothing if there is no library.

    ``torch`` and ``compiler`` are the versions of torch and of the C++ compiler. A library with CUDA kernels also has
    ``cuda``, the version of the toolkit, and ``architectures``, the value of ``TORCH_CUDA_ARCH_LIST`` that it was built
    with, such as ``"8.0;9.0+PTX"``.
    """
    if not load() or not torch._C._jit_get_schemas_for_operator("ssm_build::info"):
        return {}
    return dict(line.split("=", 1) for line in torch.ops.ssm_build.info().splitlines())


def kernel_architecture(device: int) -> tuple[int, int]:
    """Return the compute capability that the kernels which a GPU runs were compiled for.

    This is the newest of those in the library that the GPU can run. It may be older than the GPU itself, which then
    runs the kernels right but without what is new in it, such as clusters of blocks from 9.0 on.

    Args:
        device: the GPU's number in torch.

    Raises:
        RuntimeError: the library has no kernels that this GPU can run, or none at all.
    """
    if "architectures" not in build_info():
        raise RuntimeError(f"the compiled library has no CUDA kernels; {HOW_TO_BUILD}, and with a CUDA toolkit")
    return divmod(torch.ops.ssm_build.kernel_architecture(device), 10)


# torch.compile calls this function once, while it traces, because a graph cannot hold a warning.
@torch.compiler.assume_constant_result
def warn_slow(op: str, device_type: str) -> None:
    """Warn that the PyTorch reference is in use, once per operator and device type."""
    _warn_slow_once(op, device_type)


@functools.cache
def _warn_slow_once(op: str, device_type: str) -> None:
    warnings.warn(
        f"{op} has no compiled kernel for {device_type} here and runs its slow PyTorch reference; {HOW_TO_BUILD}.",
        stacklevel=4,
    )
