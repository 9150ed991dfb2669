"""Where the prompts are in a batch, and the tree that each layer grows over them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_core.ops.checks import shape_of
from tree_ssm.ops import Tree, minimum_spanning_tree, token_distances, token_edges


class Prompts(NamedTuple):
    """Where each prompt is in its padded row: the tokens ``start`` … ``end`` - 1."""

    start: Tensor  # [B]
    end: Tensor  # [B]


def find_prompts(
    shape: Sequence[int],
    device: torch.device,
    attention_mask: Tensor | None,  # [B, L]
    context_len: Tensor | int | None,  # [B]
    labels: Tensor | None,  # [B, L]
) -> Prompts:
    """Locate the prompts.

    Args:
        shape: B and L.
        device: where the result is to be.
        attention_mask: 1 for tokens and 0 for padding, on either side; None for no padding.
        context_len: tokens of each prompt, padding not counted, or one number for all. If left out, a prompt is what
            comes before the first label that counts, or without labels the whole row.
        labels: targets, -100 where none counts.

    Raises:
        ValueError: an argument does not fit; lengths beyond the row are noticed on the CPU only and else cut.
    """
    batch, length = shape
    if attention_mask is None:
        start = torch.zeros(batch, dtype=torch.int64, device=device)
        count = torch.full_like(start, length)
    else:
        if attention_mask.shape != (batch, length):
            raise ValueError(
                f"attention_mask must be [B, L] = {(batch, length)}, one number a token, got {shape_of(attention_mask)}"
            )
        present = attention_mask.to(device=device, dtype=torch.int64)
        start, count = present.argmax(1), present.sum(1)
    if context_len is None:
        if labels is None:
            return Prompts(start, start + count)
        counts = labels.ne(-100).long()
        end = torch.where(counts.any(1), counts.argmax(1), start + count)
        return Prompts(start, end.maximum(start))
    if not isinstance(context_len, Tensor):
        context_len = torch.full((batch,), context_len, device=device)
    if context_len.shape != (batch,) or context_len.is_floating_point() or context_len.is_complex():
        raise ValueError(
            f"context_len must be an integer or integers [B], B = {batch}, got {context_len.dtype} "
            f"{shape_of(context_len)}"
        )
    context_len = context_len.to(device=device, dtype=torch.int64)
    if device.type == "cpu" and ((context_len < 0) | (context_len > count)).any():
        row = int(((context_len < 0) | (context_len > count)).nonzero()[0])
        raise ValueError(
            f"context_len must be between 0 and the row's number of tokens, got {int(context_len[row])} for row {row} "
            f"of {int(count[row])}"
        )
    return Prompts(start, start + context_len.clamp_min(0).minimum(count))


class PromptEdges(NamedTuple):
    """The edges that the trees of a batch may have, the same for every layer.

    Attributes:
        prompts: where both ends of an edge have to be, but for those between neighbours.
        edges: ``[E, 2]``, as :func:`~tree_ssm.ops.token_edges` lists them.
        root: ``[B]``; the last token of every row.
        reach: distance of the furthest.
        branching: whether any prompt has three tokens; without one every tree is a chain.
    """

    prompts: Prompts
    edges: Tensor  # [E, 2]
    root: Tensor  # [B]
    reach: int
    branching: bool


def prompt_edges(prompts: Prompts, length: int, reach: int, branching: bool = True) -> PromptEdges:
    """The candidate edges of rows of ``length`` columns: prompt tokens up to ``reach`` apart, and the chain."""
    edges = token_edges(length, reach, prompts.start.device)
    return PromptEdges(prompts, edges, torch.full_like(prompts.start, length - 1), reach, branching)


@torch.no_grad()
def grow_tree(
    x: Tensor,  # [B, L, D]
    dt: Tensor,  # [B, L, D]
    dt_bias: Tensor,  # [D]
    B: Tensor,  # [B, L, N]
    candidates: PromptEdges,
) -> Tree:
    """The minimum spanning tree of every row, hung from its last token; no gradient passes through it.

    An edge of the prompt weighs exp(-cosine) of the two tokens' inputs u = Δ x ⊗ B over all D·N channels; outside the
    prompt only neighbours are joined.

    Args:
        x: features.
        dt: step sizes Δ before bias and softplus.
        dt_bias: their bias.
        B: input weights.
        candidates: the edges, for rows of this length.
    """
    weight = token_distances(x, dt, dt_bias, B, *candidates.prompts, candidates.reach)
    return minimum_spanning_tree(weight, edges=candidates.edges, num_vertices=x.shape[1], root=candidates.root)
