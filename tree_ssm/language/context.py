"""Locates the prompts in a batch and grows a tree over each of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_core.ops.checks import shape_of
from tree_ssm.ops import Tree, minimum_spanning_tree, token_distances, token_edges


class Prompts(NamedTuple):
    """The places of the prompts. The prompt of a padded row is the tokens ``start`` … ``end`` - 1."""

    start: Tensor  # [B]
    end: Tensor  # [B]


def find_prompts(
    shape: Sequence[int],
    device: torch.device,
    attention_mask: Tensor | None,  # [B, L]
    context_len: Tensor | int | None,  # [B]
    labels: Tensor | None,  # [B, L]
) -> Prompts:
    """Locate the prompts in a batch of rows.

    Args:
        shape: the sizes B and L.
        device: the device of the result.
        attention_mask: 1 for tokens and 0 for padding on either side. None means that there is no padding.
        context_len: the number of tokens in each prompt without padding, or one number for all rows. If it is None, the
            prompt is the part of the row before the first label that is not -100. Without labels it is the whole row.
        labels: the targets; -100 marks tokens without a target.

    Raises:
        ValueError: an argument does not fit. Only the CPU reports a prompt that is longer than its row. Other devices
            shorten it to the row.
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
    """The edges that the trees of a batch may have. They are the same for all layers.

    Attributes:
        prompts: the places of the prompts. Both ends of an edge must be in the prompt, unless they are neighbours.
        edges: the edges ``[E, 2]`` as :func:`~tree_ssm.ops.token_edges` lists them.
        root: ``[B]``, the last token of every row.
        reach: the largest distance between the two ends of an edge.
        branching: whether any prompt has at least three tokens. Otherwise every tree is a chain.
    """

    prompts: Prompts
    edges: Tensor  # [E, 2]
    root: Tensor  # [B]
    reach: int
    branching: bool


def prompt_edges(prompts: Prompts, length: int, reach: int, branching: bool = True) -> PromptEdges:
    """List the candidate edges of rows with ``length`` columns.

    They join prompt tokens that are at most ``reach`` apart, and they join each token to the next one.
    """
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
    """Grow the minimum spanning tree of every row. Its root is the last token. No gradient passes through it.

    The weight of an edge within the prompt is exp(-cosine). The cosine is that between the inputs u = Δ x ⊗ B of the
    two tokens, over all D·N channels. Outside the prompt, edges join only neighbours.

    Args:
        x: the features.
        dt: the step sizes Δ before bias and softplus.
        dt_bias: the bias of the step sizes.
        B: the input weights.
        candidates: the candidate edges for rows of this length.
    """
    weight = token_distances(x, dt, dt_bias, B, *candidates.prompts, candidates.reach)
    return minimum_spanning_tree(weight, edges=candidates.edges, num_vertices=x.shape[1], root=candidates.root)
