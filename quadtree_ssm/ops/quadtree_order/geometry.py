"""The map that a quadtree divides, as the operators' arguments describe it."""

import torch
from torch import Tensor

from ssm_core.ops.checks import require_integers, shape_of

Shift = tuple[int, int]


def check_geometry(op: str, choice: Tensor, height: int, width: int, shift: Shift) -> None:
    """Raise ``ValueError`` unless there is a choice for each sample of maps that can be cut in four.

    Sizes and the shift must be integers.
    """
    if choice.dim() != 1 or choice.dtype != torch.int64:
        raise ValueError(f"{op}: choice must be an int64 vector [B], got {choice.dtype} {shape_of(choice)}")
    require_integers(op, height=height, width=width)
    for places in shift:
        require_integers(op, shift=places)
    if height < 2 or width < 2:
        raise ValueError(f"{op}: the map must be at least 2×2 to be cut in four, got {height}×{width}")
    if height * width >= 2**31:
        raise ValueError(f"{op}: the map must have fewer than 2^31 tokens, got {height}×{width}")
