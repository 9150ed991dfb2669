"""The quadtree order and the mask's gradient in plain PyTorch: the definitions that kernels are tested against."""

from typing import NamedTuple

import torch
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype


def halves(index: Tensor, size: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut 0 … size - 1 at ceil(size / 2). The results are an index's half, its place there, and that half's size."""
    cut = (size + 1) // 2
    second = (index >= cut).long()
    return second, index - second * cut, torch.where(second.bool(), size - cut, cut)


def tokens_under_roll(height: int, width: int, shift: tuple[int, int], device: torch.device) -> Tensor:
    """For every place of ``torch.roll(map, shift, dims=(0, 1))`` the token's index in the map itself, ``[H, W]``."""
    tokens = torch.arange(height * width, device=device).view(height, width)
    return tokens.roll((shift[0] % height, shift[1] % width), dims=(0, 1))


def quadtree_order_reference(
    choice: Tensor,  # [B]
    height: int,
    width: int,
    levels: int,
    shift: tuple[int, int],
) -> Tensor:
    """Sort the tokens by (quadrant, sub-quadrant in the chosen quadrant, row, column); ``[B, L]``."""
    device = choice.device
    row = torch.arange(height, device=device).view(1, height, 1)
    col = torch.arange(width, device=device).view(1, 1, width)
    place = row * width + col
    quadrant = sub_quadrant = torch.zeros_like(place)
    if levels >= 1:
        row_half, row, row_size = halves(row, height)
        col_half, col, col_size = halves(col, width)
        quadrant = row_half * 2 + col_half
    if levels == 2:
        fine = halves(row, row_size)[0] * 2 + halves(col, col_size)[0]
        sub_quadrant = torch.where(quadrant == choice.view(-1, 1, 1), fine, 0)
    key = (quadrant * 4 + sub_quadrant) * (height * width) + place
    places = key.flatten(1).argsort(dim=1).expand(choice.shape[0], -1)
    return tokens_under_roll(height, width, shift, device).flatten()[places]


def mask_gradient_reference(
    a: Tensor,  # [B, L, D]
    b: Tensor,  # [B, L, D]
    choice: Tensor,  # [B]
    height: int,
    width: int,
    shift: tuple[int, int],
) -> Tensor:
    """Sum a(t) · (b_seq[fine(t)] - b_seq[coarse(t)]) over the tokens t of each quadrant; ``[B, 4]``.

    ``b_seq`` is b in the composed order. fine(t) is the place of t in the sequence in which every quadrant is split,
    and coarse(t) its place in the sequence in which none is.
    """
    order = quadtree_order_reference(choice, height, width, 2, shift)
    b_seq = b.gather(1, order.unsqueeze(-1).expand_as(b))
    places = places_of_tokens(height, width, shift, a.device)
    difference = b_seq[:, places.fine] - b_seq[:, places.coarse]
    dtype = accumulate_dtype(a.dtype)
    per_token = (a.to(dtype) * difference.to(dtype)).sum(-1)
    return per_token.new_zeros(a.shape[0], 4).index_add(1, places.quadrant, per_token)


class Places(NamedTuple):
    """Where each token of a map is, by its own index."""

    fine: Tensor  # [L], its place in the sequence in which every quadrant is split
    coarse: Tensor  # [L], its place in the sequence in which none is
    quadrant: Tensor  # [L]


def places_of_tokens(height: int, width: int, shift: tuple[int, int], device: torch.device) -> Places:
    """Find the places of all tokens of a map that is rolled by ``shift``."""
    coarse = quadtree_order_reference(torch.zeros(1, dtype=torch.int64, device=device), height, width, 1, shift)[0]
    # In row q of `split` quadrant q is split. All rows keep each quadrant's stretch, so each supplies its own quadrant.
    split = quadtree_order_reference(torch.arange(4, device=device), height, width, 2, shift)
    quadrant = _quadrants(height, width, device)  # of each place of the coarse sequence
    fine = split.gather(0, quadrant.unsqueeze(0)).squeeze(0)
    steps = torch.arange(height * width, device=device)
    # All three list every token once, so that each is inverted by a scatter.
    return Places(
        *(torch.empty_like(steps).scatter(0, at, of) for at, of in ((fine, steps), (coarse, steps), (coarse, quadrant)))
    )


def _quadrants(height: int, width: int, device: torch.device) -> Tensor:
    """The quadrant of each place of a sequence that visits one quadrant after another, ``[L]``."""
    rows, cols = ((height + 1) // 2, height // 2), ((width + 1) // 2, width // 2)
    sizes = torch.tensor([r * c for r in rows for c in cols], device=device)
    return torch.arange(4, device=device).repeat_interleave(sizes, output_size=height * width)
