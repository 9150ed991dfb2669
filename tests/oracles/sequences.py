"""Makes trees of sequences, and inputs of the operators that grow them and scan along them."""

import torch

from tree_ssm.ops import Tree, minimum_spanning_tree, token_edges

NAMES = ("y", "root_state", "grad_x", "grad_delta", "grad_A", "grad_B", "grad_C", "grad_delta_bias")


def sequence_tree(batch, length, reach=3, seed=0):
    """Return trees of a prompt with random weights, rooted at the last token. They are paths with short branches."""
    generator = torch.Generator().manual_seed(seed)
    edges = token_edges(length, reach)
    weight = torch.rand(batch, len(edges), generator=generator)
    return minimum_spanning_tree(weight, edges=edges, num_vertices=length, root=length - 1)


def chain(batch, length):
    parent = torch.arange(1, length + 1).clamp_max(length - 1).expand(batch, -1).contiguous()
    return Tree(parent, torch.arange(length - 1, -1, -1).expand(batch, -1).contiguous())


def scan_arguments(tree, channels, states, dtype=torch.float64):
    """Return x, delta, A, B, C and delta_bias of the subtree scan, all with gradients."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, delta = torch.randn(2, *tree.parent.shape, channels, dtype=torch.float64)
    B, C = torch.randn(2, *tree.parent.shape, states, dtype=torch.float64)
    A, bias = -torch.rand(channels, states) - 0.1, torch.randn(channels) - 1
    wanted = ((x, dtype), (delta, dtype), (A, wide), (B, dtype), (C, dtype), (bias, wide))
    return [value.to(to).requires_grad_() for value, to in wanted]


def distance_arguments(batch, length, channels, states, dtype=torch.float64):
    """Return x, delta, delta_bias, B, start and end for the distances of tokens. Prompts begin and end at random."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, delta = torch.randn(2, batch, length, channels).to(dtype)
    B = torch.randn(batch, length, states).to(dtype)
    start = torch.randint(0, 3, (batch,)).clamp_max(length)
    end = start + torch.randint(0, length + 1, (batch,)).minimum(length - start)
    return x, delta, torch.randn(channels).to(wide), B, start, end
