"""The order of the tokens under QuadMamba's two-level quadtree, and the gradient of the choice of a quadrant.

The README of this folder has the maths.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import require_same_device, shape_of

from . import register as _register  # noqa: F401  registers the operators' rules
from .reference import mask_gradient_reference, quadtree_order_reference

Shift = tuple[int, int]


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
    _check_geometry(op, choice, height, width)
    if levels not in (0, 1, 2):
        raise ValueError(f"{op}: levels must be 0, 1 or 2, got {levels!r}")
    if choose_backend(op, f"quadtree_ssm::{op}", backend, choice.device) == "reference":
        return quadtree_order_reference(choice, height, width, levels, shift)
    return torch.ops.quadtree_ssm.quadtree_order(choice, height, width, levels, *shift)


def mask_gradient(
    a: Tensor,  # [B, L, D]
    b: Tensor,  # [B, L, D]
    choice: Tensor,  # [B]
    height: int,
    width: int,
    shift: Shift = (0, 0),
    backend: Backend = "auto",
) -> Tensor:
    """The gradient of the straight-through mask: Σ over a quadrant's tokens of a · (b_seq[fine] - b_seq[coarse]).

    Args:
        a: the scan's input, or the gradient of its output, at the tokens' places.
        b: the gradient of the scan's input, or its output, likewise.
        choice: the quadrant that was split, int64.
        height: rows of the map.
        width: columns of the map.
        shift: as in :func:`quadtree_order`.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one.

    Returns:
        ``[B, 4]``, float32 (float64 for float64 inputs).

    Raises:
        ValueError: an argument does not fit; the message says which.
    """
    op = "mask_gradient"
    _check_geometry(op, choice, height, width)
    expected = (choice.shape[0], height * width)
    if a.dim() != 3 or a.shape[:2] != expected:
        raise ValueError(f"{op}: a must be [B, L, D], B, L = {expected}, got {shape_of(a)}")
    if a.shape != b.shape:
        raise ValueError(f"{op}: a and b must have the same shape, got {shape_of(a)} and {shape_of(b)}")
    if a.dtype != b.dtype:
        raise ValueError(f"{op}: a and b must have the same dtype, got {a.dtype} and {b.dtype}")
    require_same_device(op, a=a, b=b, choice=choice)
    if choose_backend(op, f"quadtree_ssm::{op}", backend, choice.device) == "reference":
        return mask_gradient_reference(a, b, choice, height, width, shift)
    return torch.ops.quadtree_ssm.mask_gradient(a.contiguous(), b.contiguous(), choice, height, width, *shift)


class _StraightThrough(torch.autograd.Function):
    """The identity on the tokens, whose backward pass gives the mask its gradient at the scan's input or output."""

    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, mask: Tensor, choice: Tensor, height: int, width: int, shift: Shift, at_input: bool
    ) -> Tensor:
        ctx.save_for_backward(tokens, choice)
        ctx.geometry = (height, width, shift)
        ctx.mask_dtype = mask.dtype
        ctx.at_input = at_input
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_mask = None
        if ctx.needs_input_grad[1]:
            tokens, choice = ctx.saved_tensors
            a, b = (tokens, grad) if ctx.at_input else (grad, tokens)
            grad_mask = mask_gradient(a, b, choice, *ctx.geometry).to(ctx.mask_dtype)
        return grad, grad_mask, None, None, None, None, None


def straight_through_input(
    x: Tensor,  # [B, L, D]
    mask: Tensor,  # [B, 4]
    choice: Tensor,  # [B]
    height: int,
    width: int,
    shift: Shift = (0, 0),
) -> Tensor:
    """Return ``x``, and in the backward pass give ``mask`` the gradient of fine(x·m) + coarse(x·(1 - m)).

    That sequence is a permutation of ``x``, and the scan takes the permutation as an argument. So ``x`` stays as it is.

    Args:
        x: input of the scan, at the tokens' own places.
        mask: a straight-through one-hot vector over the quadrants, with its hard value at ``choice``.
        choice: the chosen quadrant, int64.
        height: rows of the map.
        width: columns of the map.
        shift: as in :func:`quadtree_order`.

    Raises:
        ValueError: an argument does not fit; the message says which.
    """
    _check_mask("straight_through_input", x, mask, choice, height, width)
    return _StraightThrough.apply(x, mask, choice, height, width, shift, True)


def straight_through_output(
    y: Tensor,  # [B, L, D]
    mask: Tensor,  # [B, 4]
    choice: Tensor,  # [B]
    height: int,
    width: int,
    shift: Shift = (0, 0),
) -> Tensor:
    """Return ``y``, and in the backward pass give ``mask`` the gradient of fine⁻¹(y)·m + coarse⁻¹(y)·(1 - m).

    Arguments and errors are those of :func:`straight_through_input`, with ``y`` the output of the scan.
    """
    _check_mask("straight_through_output", y, mask, choice, height, width)
    return _StraightThrough.apply(y, mask, choice, height, width, shift, False)


def _check_geometry(op: str, choice: Tensor, height: int, width: int) -> None:
    if choice.dim() != 1 or choice.dtype != torch.int64:
        raise ValueError(f"{op}: choice must be an int64 vector [B], got {choice.dtype} {shape_of(choice)}")
    if height < 2 or width < 2:
        raise ValueError(f"{op}: the map must be at least 2×2 to be cut in four, got {height}×{width}")
    if height * width >= 2**31:
        raise ValueError(f"{op}: the map must have fewer than 2^31 tokens, got {height}×{width}")


def _check_mask(op: str, x: Tensor, mask: Tensor, choice: Tensor, height: int, width: int) -> None:
    _check_geometry(op, choice, height, width)
    batch = choice.shape[0]
    if x.dim() != 3 or x.shape[:2] != (batch, height * width):
        raise ValueError(f"{op}: the tokens must be [B, L, D] with B, L = {batch, height * width}, got {shape_of(x)}")
    if mask.shape != (batch, 4):
        raise ValueError(f"{op}: mask must be [B, 4] with B = {batch}, got {shape_of(mask)}")


__all__ = [
    "mask_gradient",
    "mask_gradient_reference",
    "quadtree_order",
    "quadtree_order_reference",
    "straight_through_input",
    "straight_through_output",
]
