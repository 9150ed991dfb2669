"""The order of the tokens under QuadMamba's two-level quadtree, and the gradient of the choice of a quadrant.

The README of this folder has the maths.
"""

from typing import Literal

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.calling import call
from ssm_core.ops.checks import require_integers

from . import register as _register  # noqa: F401  registers the operators' rules
from .geometry import Shift, check_geometry
from .mask import mask_gradient, straight_through_input, straight_through_output
from .reference import mask_gradient_reference, quadtree_order_reference


def quadtree_order(
    choice: Tensor,  # [B]
    height: int,
    width: int,
    levels: Literal[0, 1, 2] = 2,
    shift: Shift = (0, 0),
    backend: Backend = "auto",
) -> Tensor:
    """The token visited at each step of the quadtree scan (QuadMamba, section 3.2); every row is a permutation.

    The quadrants come in raster order, and so do the four sub-quadrants of the chosen quadrant. Every window is visited
    row by row. Sides are cut at ceil(size / 2), so any height and width from 2 on will do.

    Args:
        choice: the quadrant to split, int64, 0 … 3 in raster order.
        height: rows of the map.
        width: columns of the map.
        levels: 0 visits the map row by row, 1 cuts it into quadrants, 2 also splits the chosen quadrant.
        shift: rows and columns by which the map is rolled (``torch.roll``) before it is cut, for shifted windows.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one.

    Returns:
        ``[B, L]``, int64: the row-major index, in the unrolled map, of the token at each place of the sequence.

    Raises:
        ValueError: an argument does not fit; the message says which.
    """
    op = "quadtree_order"
    check_geometry(op, choice, height, width, shift)
    require_integers(op, levels=levels)
    if levels not in (0, 1, 2):
        raise ValueError(f"{op}: levels must be 0, 1 or 2, got {levels!r}")
    if choose_backend(op, f"quadtree_ssm::{op}", backend, choice.device) == "reference":
        return quadtree_order_reference(choice, height, width, levels, shift)
    return call(torch.ops.quadtree_ssm.quadtree_order, choice, height, width, levels, *shift)


__all__ = [
    "mask_gradient",
    "mask_gradient_reference",
    "quadtree_order",
    "quadtree_order_reference",
    "straight_through_input",
    "straight_through_output",
]
