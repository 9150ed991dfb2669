"""Loads the compiled library once and answers what it can do.

The library registers its operators with ``torch.ops`` when it is loaded; there is nothing to import from it. Without
it every operator still works through its PyTorch reference.
"""

import functools
import importlib.machinery
import warnings
from pathlib import Path

import torch

_HOW_TO_BUILD = (
    "build it with `make setup`, or with `pip install .` in an environment that has torch and a C++ compiler"
)

# What this version of the Python code calls; a library without them was built from older sources.
OPERATORS = (
    "ssm_core::selective_scan",
    "ssm_core::selective_scan_backward",
    "quadtree_ssm::quadtree_order",
    "quadtree_ssm::mask_gradient",
    "tree_ssm::spanning_tree",
    "tree_ssm::minimum_spanning_tree",
    "tree_ssm::grid_cosine_distance",
    "tree_ssm::tree_schedule",
    "tree_ssm::tree_scan",
    "tree_ssm::tree_scan_backward",
    "tree_ssm::selective_tree_scan",
    "tree_ssm::selective_tree_scan_backward",
    "tree_ssm::selective_subtree_scan",
    "tree_ssm::selective_subtree_scan_backward",
    "tree_ssm::token_distance",
    "tree_ssm::state_readout",
    "tree_ssm::state_readout_backward",
)


@functools.cache
def load() -> bool:
    """Load the compiled library; return whether it is there."""
    folder = Path(__file__).parent
    candidates = [p for s in importlib.machinery.EXTENSION_SUFFIXES if (p := folder / f"_C{s}").exists()]
    if not candidates:
        return False
    try:
        torch.ops.load_library(str(candidates[0]))
    except OSError as error:
        warnings.warn(
            f"{candidates[0].name} does not load with torch {torch.__version__} ({error}); it was probably built for "
            f"another torch. Using the slow PyTorch references; {_HOW_TO_BUILD}.",
            stacklevel=2,
        )
        return False
    known = {schema.name for schema in torch._C._jit_get_all_schemas()}
    if missing := [name for name in OPERATORS if name not in known]:
        warnings.warn(
            f"{candidates[0].name} is older than the Python code: it lacks {', '.join(missing)}. Using the slow "
            f"PyTorch references; {_HOW_TO_BUILD}.",
            stacklevel=2,
        )
    return not missing


# torch.compile evaluates this once while tracing: files and dispatch tables are nothing a graph can hold.
@torch.compiler.assume_constant_result
def has(device_type: str, op: str) -> bool:
    """Whether the compiled library has a kernel of ``op`` (e.g. ``"ssm_core::selective_scan"``) for a device type.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
        op: the operator's qualified name.
    """
    return load() and torch._C._dispatch_has_kernel_for_dispatch_key(op, device_type.upper())


@torch.compiler.assume_constant_result
def warn_slow(op: str, device_type: str) -> None:
    """Say once per operator and device that the PyTorch reference is in use."""
    _warn_slow_once(op, device_type)


@functools.cache
def _warn_slow_once(op: str, device_type: str) -> None:
    warnings.warn(
        f"{op} has no compiled kernel for {device_type} here and runs its slow PyTorch reference; {_HOW_TO_BUILD}.",
        stacklevel=4,
    )
