"""Computes the released MambaTree (GrootVL) in plain PyTorch, directly from a state dict with the released names.

It is an oracle for the tests and independent of everything in the packages. The tree is Kruskal's, and the tree scan is
the dense sum over all pairs of vertices, h_i = sum_j (product of the weights on the path from i to j) u_j. The model is
that of Xiao et al., "MambaTree: Tree Topology is All You Need in State Space Model" (NeurIPS 2024). Plain loops are
preferred to speed here.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from oracles import released_layers
from oracles.released_layers import Weights
from oracles.released_layers import conv as _conv
from oracles.released_layers import count as _count
from oracles.released_layers import linear as _linear
from oracles.spanning_trees import hang, kruskal
from torch import Tensor

_norm = partial(released_layers.norm, eps=1e-6)


def shapes(
    depths: tuple[int, ...],
    channels: int,
    *,
    ssm_ratio: float = 2.0,
    layer_scale: bool = False,
    num_classes: int | None = 10,
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a released file. ``num_classes=None`` leaves out the head and ``conv_head``."""
    table: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        table[f"{name}.weight"] = table[f"{name}.bias"] = (width,)

    for index, (inputs, outputs) in enumerate(((3, channels // 2), (channels // 2, channels)), start=1):
        table[f"patch_embed.conv{index}.weight"] = (outputs, inputs, 3, 3)
        table[f"patch_embed.conv{index}.bias"] = (outputs,)
        norm(f"patch_embed.norm{index}.1", outputs)
    for stage, depth in enumerate(depths):
        width = channels * 2**stage
        inner, rank = int(ssm_ratio * width), math.ceil(width / 16)
        for index in range(depth):
            block = f"levels.{stage}.blocks.{index}"
            op = f"{block}.TreeSSM"
            if layer_scale:
                table[f"{block}.gamma1"] = table[f"{block}.gamma2"] = (width,)
            norm(f"{block}.norm1.0", width)
            table[f"{op}.x_proj_weight"] = (1, rank + 2, inner)
            table[f"{op}.dt_projs_weight"] = (1, inner, rank)
            table[f"{op}.dt_projs_bias"] = (1, inner)
            table[f"{op}.A_logs"] = (inner, 1)
            table[f"{op}.Ds"] = (inner,)
            norm(f"{op}.out_norm", inner)
            norm(f"{op}.h_norm", inner)
            table[f"{op}.in_proj.weight"] = (2 * inner, width)
            table[f"{op}.conv2d.weight"] = (inner, 1, 3, 3)
            table[f"{op}.out_proj.weight"] = (width, inner)
            norm(f"{block}.norm2.0", width)
            table[f"{block}.mlp.fc1.weight"] = (4 * width, width)
            table[f"{block}.mlp.fc1.bias"] = (4 * width,)
            table[f"{block}.mlp.fc2.weight"] = (width, 4 * width)
            table[f"{block}.mlp.fc2.bias"] = (width,)
        norm(f"levels.{stage}.norm.0", width)
        if stage < len(depths) - 1:
            table[f"levels.{stage}.downsample.conv.weight"] = (2 * width, width, 3, 3)
            norm(f"levels.{stage}.downsample.norm.1", 2 * width)
    if num_classes is not None:
        width = channels * 2 ** (len(depths) - 1)
        table["conv_head.0.weight"] = (width * 3 // 2, width, 1, 1)
        norm("conv_head.1.0", width * 3 // 2)
        table["conv_head.1.0.running_mean"] = table["conv_head.1.0.running_var"] = (width * 3 // 2,)
        table["conv_head.1.0.num_batches_tracked"] = ()
        table["head.weight"] = (num_classes, width * 3 // 2)
        table["head.bias"] = (num_classes,)
    return table


def _spanning_tree(x: Tensor, width: int) -> list[tuple[int, int]]:
    """Grow Kruskal's tree on the grid of tokens x [L, D].

    Return (vertex, parent) for all vertices but the root 0, breadth first.
    """
    count = x.shape[0]
    down = [(v, v + width) for v in range(count - width)]
    right = [(v, v + 1) for v in range(count) if (v + 1) % width]
    edges = down + right
    norms = x.norm(dim=-1).clamp_min(1e-8)
    weights = [math.exp(-float(x[a] @ x[b] / (norms[a] * norms[b]))) for a, b in edges]
    parent, order = hang(kruskal(weights, edges, count), count, 0)
    return [(v, parent[v]) for v in order[1:]]


def _tree_scan(u: Tensor, log_weight: Tensor, parents: list[tuple[int, int]]) -> Tensor:
    """Compute the dense sum for one sample, u and log_weight [L, D]. The edge to a vertex's parent has its weight.

    The log of a path's product is s_i + s_j - 2 s_lca(i, j). Here s is the sum from the root, and lca is the vertex
    where the two paths to the root meet.
    """
    count = u.shape[0]
    meeting = torch.zeros(count, count, dtype=torch.long)
    from_root, seen = {0: torch.zeros_like(u[0])}, [0]
    for vertex, parent in parents:
        meeting[vertex, seen] = meeting[seen, vertex] = meeting[parent, seen]  # no seen vertex is below `vertex`
        meeting[vertex, vertex] = vertex
        from_root[vertex] = from_root[parent] + log_weight[vertex]
        seen.append(vertex)
    s = torch.stack([from_root[vertex] for vertex in range(count)])
    return ((s[:, None] + s[None] - 2 * s[meeting]).exp() * u).sum(1)


def _tree_ssm(w: Weights, op: str, x: Tensor) -> Tensor:
    batch, _, width, _ = x.shape
    x, gate = _linear(w, f"{op}.in_proj", x).chunk(2, -1)
    x = F.silu(_conv(w, f"{op}.conv2d", x)).reshape(batch, -1, x.shape[-1])
    rank = w[f"{op}.dt_projs_weight"].shape[-1]
    low_rank, b, c = (x @ w[f"{op}.x_proj_weight"][0].T).split([rank, 1, 1], -1)
    delta = F.softplus(low_rank @ w[f"{op}.dt_projs_weight"][0].T + w[f"{op}.dt_projs_bias"][0])
    log_decay = delta * -w[f"{op}.A_logs"].squeeze(-1).exp()
    u = delta * b * x
    h = torch.stack([_tree_scan(u[i], log_decay[i], _spanning_tree(x[i].detach(), width)) for i in range(batch)])
    y = c * _norm(w, f"{op}.h_norm", h, eps=1e-5) + w[f"{op}.Ds"] * x
    y = _norm(w, f"{op}.out_norm", y, eps=1e-5).reshape(gate.shape) * F.silu(gate)
    return _linear(w, f"{op}.out_proj", y)


def forward(w: Weights, images: Tensor, *, maps: bool = False) -> Tensor | list[Tensor]:
    """Return logits [B, classes] of images [B, 3, H, W] in evaluation mode. With ``maps``, return the normed maps."""
    x = _norm(w, "patch_embed.norm1.1", _conv(w, "patch_embed.conv1", images.permute(0, 2, 3, 1), stride=2))
    x = _norm(w, "patch_embed.norm2.1", _conv(w, "patch_embed.conv2", F.gelu(x), stride=2))
    outputs = []
    for stage in range(_count(w, "levels.")):
        for index in range(_count(w, f"levels.{stage}.blocks.")):
            block = f"levels.{stage}.blocks.{index}"
            x = x + w.get(f"{block}.gamma1", 1.0) * _tree_ssm(w, f"{block}.TreeSSM", _norm(w, f"{block}.norm1.0", x))
            hidden = F.gelu(_linear(w, f"{block}.mlp.fc1", _norm(w, f"{block}.norm2.0", x)))
            x = x + w.get(f"{block}.gamma2", 1.0) * _linear(w, f"{block}.mlp.fc2", hidden)
        x = _norm(w, f"levels.{stage}.norm.0", x)
        outputs.append(x.permute(0, 3, 1, 2))
        if f"levels.{stage}.downsample.conv.weight" in w:
            x = _conv(w, f"levels.{stage}.downsample.conv", x, stride=2)
            x = _norm(w, f"levels.{stage}.downsample.norm.1", x)
    if maps:
        return outputs
    x = x @ w["conv_head.0.weight"].flatten(1).T
    bn = "conv_head.1.0"
    x = (x - w[f"{bn}.running_mean"]) / (w[f"{bn}.running_var"] + 1e-5).sqrt()
    x = F.gelu(x * w[f"{bn}.weight"] + w[f"{bn}.bias"])
    return _linear(w, "head", x.mean((1, 2)))
