"""The straight-through mask of the chosen quadrant: its gradient, and the functions that give it one.

The mask m enters the scan's input as fine(x·m) + coarse(x·(1 - m)) and its output as fine⁻¹(y)·m + coarse⁻¹(y)·(1 - m).
At the tokens' own places these are M(m)ᵀ x and M(m) y, with a matrix M(m) that is linear in m and the identity where m
is the one-hot vector of the choice. So nothing is computed until there are derivatives. Each function's gradient is the
other's, which goes on to all orders.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import accumulate_dtype, require_same_device, shape_of

from .geometry import Shift, check_geometry
from .reference import mask_gradient_reference, places_of_tokens, quadtree_order_reference


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
    check_geometry(op, choice, height, width, shift)
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
    _check_mask("straight_through_input", x, mask, choice, height, width, shift)
    return _apply(x, mask, choice, height, width, shift, at_input=True)


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
    _check_mask("straight_through_output", y, mask, choice, height, width, shift)
    return _apply(y, mask, choice, height, width, shift, at_input=False)


def _apply(
    tokens: Tensor, mask: Tensor, choice: Tensor, height: int, width: int, shift: Shift, at_input: bool
) -> Tensor:
    # In forward mode of several orders, an autograd.Function gives a result without tangents and no error.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return straight_through_composite(tokens, mask, choice, height, width, shift, at_input)
    return _StraightThrough.apply(tokens, mask, choice, height, width, shift, at_input)


class _StraightThrough(torch.autograd.Function):
    """The identity on the tokens, whose backward pass gives the mask its gradient at the scan's input or output."""

    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, mask: Tensor, choice: Tensor, height: int, width: int, shift: Shift, at_input: bool
    ) -> Tensor:
        ctx.save_for_backward(tokens, mask, choice)
        ctx.geometry = (height, width, shift)
        ctx.at_input = at_input
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, mask, choice = ctx.saved_tensors
        height, width, shift = ctx.geometry
        grad_mask = None
        if ctx.needs_input_grad[1]:
            a, b = (tokens, grad) if ctx.at_input else (grad, tokens)
            grad_mask = mask_gradient(a, b, choice, height, width, shift).to(mask.dtype)
        grad_tokens = _apply(grad, mask, choice, height, width, shift, at_input=not ctx.at_input)
        return grad_tokens, grad_mask, None, None, None, None, None


def straight_through_composite(
    tokens: Tensor,  # [B, L, D]
    mask: Tensor,  # [B, 4]
    choice: Tensor,  # [B]
    height: int,
    width: int,
    shift: Shift,
    at_input: bool,
) -> Tensor:  # [B, L, D]
    """Compute M(m)ᵀ x at the scan's input, or M(m) y at its output, by differentiable operations."""
    order = quadtree_order_reference(choice, height, width, 2, shift)
    places = places_of_tokens(height, width, shift, tokens.device)
    dtype = accumulate_dtype(tokens.dtype)
    chosen, wide = mask.to(dtype)[:, places.quadrant].unsqueeze(-1), tokens.to(dtype)

    def move(x: Tensor, place: Tensor) -> Tensor:
        # The token that the composed order has at the place of each token, a permutation.
        token = order[:, place]
        return x.gather(1, (token.argsort(1) if at_input else token).unsqueeze(-1).expand_as(x))

    if at_input:
        result = move(wide * chosen, places.fine) + move(wide * (1 - chosen), places.coarse)
    else:
        result = move(wide, places.fine) * chosen + move(wide, places.coarse) * (1 - chosen)
    return result.to(tokens.dtype)


def _check_mask(op: str, x: Tensor, mask: Tensor, choice: Tensor, height: int, width: int, shift: Shift) -> None:
    check_geometry(op, choice, height, width, shift)
    batch = choice.shape[0]
    if x.dim() != 3 or x.shape[:2] != (batch, height * width):
        raise ValueError(f"{op}: the tokens must be [B, L, D] with B, L = {batch, height * width}, got {shape_of(x)}")
    if mask.shape != (batch, 4):
        raise ValueError(f"{op}: mask must be [B, 4] with B = {batch}, got {shape_of(mask)}")
