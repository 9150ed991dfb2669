"""Where the prompts are in a batch, and the tree that each layer grows over them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype, shape_of
from tree_ssm.ops import Tree, minimum_spanning_tree

# Heavier than any weight exp(-cosine) <= e: such an edge is never in a tree, since those of length 1 join everything.
_NEVER = 4.0


class PromptEdges(NamedTuple):
    """The edges that the trees of a batch may have, the same for every layer.

    Attributes:
        columns: so many columns of the batch are in trees; behind them every row is a chain. At most 2: all of it is.
        edges: ``[E, 2]``; all pairs of neighbouring tokens, then all at distance 2, and so on, each from left to right.
        within: ``[B, E]``; whether both ends are prompt tokens.
    """

    columns: int
    edges: Tensor  # [E, 2]
    within: Tensor  # [B, E]


class Prompts(NamedTuple):
    """Where each prompt is in its padded row: the tokens ``start`` … ``end`` - 1."""

    start: Tensor  # [B]
    end: Tensor  # [B]


def find_prompts(
    shape: tuple[int, int],
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
    batch, length = shape = tuple(shape)
    if attention_mask is None:
        start = torch.zeros(batch, dtype=torch.int64, device=device)
        count = torch.full_like(start, length)
    else:
        if attention_mask.shape != (batch, length):
            raise ValueError(
                f"attention_mask must be [B, L] = {shape}, one number a token, got {shape_of(attention_mask)}"
            )
        present = attention_mask.to(device=device, dtype=torch.int64)
        start, count = present.argmax(1), present.sum(1)
    if context_len is None and labels is None:
        return Prompts(start, start + count)
    if context_len is None:
        counts = (labels != -100).long()
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


def prompt_edges(prompts: Prompts, length: int, reach: int) -> PromptEdges:
    """The candidate edges of the first ``length`` columns: prompt tokens up to ``reach`` apart, and the chain."""
    token = torch.arange(length, device=prompts.start.device)
    ends = [torch.stack([token[:-k], token[k:]], dim=1) for k in range(1, min(reach, length - 1) + 1)]
    edges = torch.cat(ends) if ends else token.new_empty(0, 2)
    begin, end = prompts.start.unsqueeze(1), prompts.end.unsqueeze(1)
    return PromptEdges(length, edges, (edges[:, 0] >= begin) & (edges[:, 1] < end))


@torch.no_grad()
def grow_tree(
    v: Tensor,  # [B, L, D]
    B: Tensor,  # [B, L, N]
    candidates: PromptEdges,
    reach: int,
) -> Tree:
    """The minimum spanning tree of every row, hung from its last token; no gradient passes through it.

    An edge of the prompt weighs exp(-cosine) of the two tokens' inputs u = v ⊗ B over all D·N channels. Since u is an
    outer product, that cosine is the product of the cosines of v and of B, and u is never formed. Outside the prompt
    only neighbours are joined.

    Args:
        v: Δ·x.
        B: input weights.
        candidates: the edges, for rows of this length.
        reach: what ``candidates`` was made with.
    """
    length = v.shape[1]
    dtype = accumulate_dtype(v.dtype)
    v, B = F.normalize(v.to(dtype), dim=-1), F.normalize(B.to(dtype), dim=-1)
    weights = []
    for k in range(1, min(reach, length - 1) + 1):
        cosine = (v[:, :-k] * v[:, k:]).sum(-1) * (B[:, :-k] * B[:, k:]).sum(-1)
        weights.append(torch.exp(-cosine))
    weight = torch.cat(weights, dim=1) if weights else v.new_empty(v.shape[0], 0)
    neighbours = torch.arange(weight.shape[1], device=v.device) < length - 1
    outside = torch.where(neighbours, 0.0, _NEVER).to(dtype)
    weight = torch.where(candidates.within, weight, outside)
    return minimum_spanning_tree(weight, edges=candidates.edges, num_vertices=length, root=length - 1)
