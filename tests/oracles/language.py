"""Computes MambaTree-L's mixer literally as the paper describes it.

It takes one row at a time, in float64, by dense sums over trees. It is written only from the paper (section 3.3,
Algorithm 2) and from the recurrences. Kruskal's algorithm runs on explicit inputs of D·N channels, and
h_i = Σ_j (∏ decays on the way up from j to i) u_j is summed over all pairs.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from oracles.spanning_trees import hang, kruskal


def projections(mixer, hidden):
    """Return x, z [L, D], Δ [L, D], A [D, N] and B, C [L, N] of the row ``hidden`` [L, C]."""
    x, z = mixer.in_proj(hidden).chunk(2, -1)
    width = mixer.conv_kernel_size
    weight, bias = mixer.conv1d.weight[:, 0], mixer.conv1d.bias  # [D, K], [D]
    padded = torch.cat([x.new_zeros(width - 1, x.shape[1]), x])
    x = F.silu(torch.stack([(padded[t : t + width].t() * weight).sum(1) + bias for t in range(len(x))]))
    dt, B, C = mixer.x_proj(x).split([mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size], -1)
    return x, z, F.softplus(mixer.dt_proj(dt)), -mixer.A_log.exp(), B, C


def parents(u, context, reach=3):
    """Return the parent of every token.

    Kruskal's tree joins the prompt, and a chain joins the tokens after it. The root is the last token.
    """
    length = len(u)
    flat = u.detach().flatten(1)
    edges = [(i, i + distance) for distance in range(1, reach + 1) for i in range(max(0, context - distance))]
    weights = [math.exp(-float(F.cosine_similarity(flat[a], flat[b], dim=0))) for a, b in edges]
    chain = [(t - 1, t) for t in range(max(context, 1), length)]
    return hang(kruskal(weights, edges, length) + chain, length, length - 1)[0]


def dense_tree(u, decay, parent, rule):
    """Return the sum over every token's subtree, [L, D, N]. ``decay`` [L, D, N] is Ā of each token."""
    length = len(u)
    h = torch.zeros_like(u)
    for i, j in itertools.product(range(length), repeat=2):
        product, t = torch.ones_like(u[0]), j
        while t != i and parent[t] != t:
            product = product * decay[t + 1 if rule == "next" else t]
            t = parent[t]
        if t == i:
            h[i] = h[i] + product * u[j]
    return h


def mixer_output(mixer, hidden, context, scale, rule="next"):
    """Return the mixer's output [L, C] for a row whose first ``context`` tokens are the prompt."""
    x, z, delta, A, B, C = projections(mixer, hidden)
    decay = torch.exp(delta.unsqueeze(-1) * A)
    u = (delta * x).unsqueeze(-1) * B.unsqueeze(1)
    chain = dense_tree(u, decay, [min(t + 1, len(u) - 1) for t in range(len(u))], "next")
    tree = dense_tree(u, decay, parents(u, context), rule)
    y = ((chain + scale * tree) * C.unsqueeze(1)).sum(-1) + mixer.D * x
    return mixer.out_proj(y * F.silu(z))
