"""Computes the released QuadMamba in plain PyTorch, directly from a state dict with the authors' names.

It is an oracle for the tests and independent of everything in the packages. The model is that of Xie et al.,
"QuadMamba: Learning Quadtree-based Selective Scan for Visual State Space Model" (NeurIPS 2024). Where the authors' code
differs from the paper, it follows the code. It leaves out the Gumbel noise. Plain loops are preferred to speed here.
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
from torch import Tensor

_norm = partial(released_layers.norm, eps=1e-5)


def shapes(
    depths: tuple[int, ...],
    dims: tuple[int, ...],
    *,
    d_state: int = 1,
    ssm_ratio: float = 2.0,
    mlp_ratio: float = 4.0,
    num_classes: int | None = 10,
    conv_bias: bool = False,
    out_indices: tuple[int, ...] = (),
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a released file. ``num_classes=None`` gives a backbone's, without a classifier."""
    table: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        table[f"{name}.weight"] = (outputs, inputs)
        if bias:
            table[f"{name}.bias"] = (outputs,)

    def norm(name: str, width: int) -> None:
        table[f"{name}.weight"] = table[f"{name}.bias"] = (width,)

    def conv(name: str, inputs: int, outputs: int) -> None:
        table[f"{name}.weight"] = (outputs, inputs, 3, 3)
        table[f"{name}.bias"] = (outputs,)

    conv("patch_embed.0", 3, dims[0] // 2)
    norm("patch_embed.2", dims[0] // 2)
    conv("patch_embed.5", dims[0] // 2, dims[0])
    norm("patch_embed.7", dims[0])
    for stage, (depth, width) in enumerate(zip(depths, dims, strict=True)):
        inner, rank, directions = int(ssm_ratio * width), math.ceil(width / 16), 2 if stage < 2 else 4
        for index in range(depth):
            block = f"layers.{stage}.blocks.{index}"
            op = f"{block}.op"
            norm(f"{block}.norm", width)
            table[f"{op}.x_proj_weight"] = (directions, rank + 2 * d_state, inner)
            table[f"{op}.dt_projs_weight"] = (directions, inner, rank)
            table[f"{op}.dt_projs_bias"] = (directions, inner)
            table[f"{op}.A_logs"] = (directions * inner, d_state)
            table[f"{op}.Ds"] = (directions * inner,)
            norm(f"{op}.out_norm", inner)
            if stage < 2:
                norm(f"{op}.score_predictor.in_conv.0", inner)
                linear(f"{op}.score_predictor.in_conv.1", inner, inner)
                linear(f"{op}.score_predictor.out_conv.0", inner, inner // 2)
                linear(f"{op}.score_predictor.out_conv.2", inner // 2, inner // 4)
                linear(f"{op}.score_predictor.out_conv.4", inner // 4, 2)
            linear(f"{op}.in_proj", width, inner, bias=False)
            table[f"{op}.conv2d.weight"] = (inner, 1, 3, 3)
            if conv_bias:
                table[f"{op}.conv2d.bias"] = (inner,)
            linear(f"{op}.out_proj", inner, width, bias=False)
            norm(f"{block}.norm2", width)
            linear(f"{block}.mlp.fc1", width, int(width * mlp_ratio))
            linear(f"{block}.mlp.fc2", int(width * mlp_ratio), width)
        if stage < len(depths) - 1:
            conv(f"layers.{stage}.downsample.1", width, dims[stage + 1])
            norm(f"layers.{stage}.downsample.3", dims[stage + 1])
    if num_classes is not None:
        norm("classifier.norm", dims[-1])
        linear("classifier.head", dims[-1], num_classes)
    for stage in out_indices:
        norm(f"outnorm{stage}", dims[stage])
    return table


def _scan(w: Weights, op: str, k: int, sequence: Tensor) -> Tensor:
    """Scan a sequence [B, L, D] in one direction, with the k-th direction's parameters."""
    inner = sequence.shape[-1]
    a = -w[f"{op}.A_logs"][k * inner : (k + 1) * inner].exp()
    skip = w[f"{op}.Ds"][k * inner : (k + 1) * inner]
    rank, states = w[f"{op}.dt_projs_weight"].shape[-1], a.shape[-1]
    projected = sequence @ w[f"{op}.x_proj_weight"][k].T
    low_rank, b, c = projected.split([rank, states, states], dim=-1)
    delta = F.softplus(low_rank @ w[f"{op}.dt_projs_weight"][k].T + w[f"{op}.dt_projs_bias"][k])
    state = sequence.new_zeros(sequence.shape[0], inner, states)
    outputs = []
    for t in range(sequence.shape[1]):
        step, u = delta[:, t, :, None], sequence[:, t, :, None]
        state = (step * a).exp() * state + step * b[:, t, None, :] * u
        outputs.append((state * c[:, t, None, :]).sum(-1) + skip * sequence[:, t])
    return torch.stack(outputs, 1)


def _scan_both_ways(w: Weights, op: str, sequence: Tensor, forward: int, backward: int) -> Tensor:
    return _scan(w, op, forward, sequence) + _scan(w, op, backward, sequence.flip(1)).flip(1)


def _slots(height: int, width: int, windows: int) -> Tensor:
    """Return each token's place when windows × windows equal windows are read in raster order, each row by row."""
    slots = torch.empty(height, width, dtype=torch.long)
    tall, wide = height // windows, width // windows
    for row in range(height):
        for column in range(width):
            window = (row // tall) * windows + column // wide
            slots[row, column] = window * tall * wide + (row % tall) * wide + column % wide
    return slots.flatten()


def _quadrant_scores(w: Weights, name: str, x: Tensor, global_context: bool) -> Tensor:
    """Return the log-probability of "informative", averaged over each of the four quadrants, [B, 4]."""
    batch, height, width, inner = x.shape
    features = F.gelu(_linear(w, f"{name}.in_conv.1", _norm(w, f"{name}.in_conv.0", x)))
    quadrants = (batch, 2, height // 2, 2, width // 2, -1)
    if global_context:
        local, pooled = features[..., : inner // 2], features[..., inner // 2 :]
        pooled = pooled.reshape(quadrants).mean((2, 4), keepdim=True).expand((*quadrants[:-1], inner - inner // 2))
        features = torch.cat([local, pooled.reshape(batch, height, width, -1)], -1)
    features = F.gelu(_linear(w, f"{name}.out_conv.0", features))
    features = F.gelu(_linear(w, f"{name}.out_conv.2", features))
    score = _linear(w, f"{name}.out_conv.4", features).log_softmax(-1)[..., :1]
    return score.reshape(quadrants).mean((2, 4, 5)).reshape(batch, 4)


def _quadtree_scan(w: Weights, op: str, x: Tensor, shift: tuple[int, int], global_context: bool) -> Tensor:
    batch, height, width, inner = x.shape
    soft = _quadrant_scores(w, f"{op}.score_predictor", x, global_context).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), 4).to(soft)
    choice = hard + soft - soft.detach()
    # As in the released code, the score is computed before the shift, but its mask applies to the shifted tokens.
    mask = choice.reshape(batch, 2, 1, 2, 1).expand(batch, 2, height // 2, 2, width // 2).reshape(batch, -1, 1)
    tokens = x.roll(shift, (1, 2)).reshape(batch, -1, inner)
    coarse, fine = _slots(height, width, 2), _slots(height, width, 4)
    sequence = torch.zeros_like(tokens).index_add(1, coarse, tokens * (1 - mask)).index_add(1, fine, tokens * mask)
    y = _scan_both_ways(w, op, sequence, 0, 1)
    y = y[:, coarse] * (1 - mask) + y[:, fine] * mask
    return y.reshape(x.shape).roll((-shift[0], -shift[1]), (1, 2))


def _cross_scan(w: Weights, op: str, x: Tensor) -> Tensor:
    batch, height, width, inner = x.shape
    rows = _scan_both_ways(w, op, x.reshape(batch, -1, inner), 0, 2).reshape(x.shape)
    columns = _scan_both_ways(w, op, x.transpose(1, 2).reshape(batch, -1, inner), 1, 3)
    return rows + columns.reshape(batch, width, height, inner).transpose(1, 2)


def _shift(index: int, global_index: int, height: int) -> tuple[int, int]:
    if index % 2 == 0:
        return 0, 0
    size = height // 8
    return ((size, size), (-size, -size), (size, -size), (-size, size))[global_index // 2 % 4]


def forward(w: Weights, images: Tensor, *, global_context: bool = False) -> Tensor | list[Tensor]:
    """Return logits [B, classes] of images [B, 3, H, W], or the normed maps (NCHW) if the state dict has ``outnorm``s.

    The sides of the first two stages' maps have to be multiples of four. ``global_context`` selects the older release's
    predictor, which averages half of its channels over the quadrants.
    """
    x = _norm(w, "patch_embed.2", _conv(w, "patch_embed.0", images.permute(0, 2, 3, 1), stride=2))
    x = _norm(w, "patch_embed.7", _conv(w, "patch_embed.5", F.gelu(x), stride=2))
    maps, global_index = [], 0
    for stage in range(_count(w, "layers.")):
        for index in range(_count(w, f"layers.{stage}.blocks.")):
            block = f"layers.{stage}.blocks.{index}"
            op = f"{block}.op"
            y = F.silu(_conv(w, f"{op}.conv2d", _linear(w, f"{op}.in_proj", _norm(w, f"{block}.norm", x))))
            if stage < 2:
                y = _quadtree_scan(w, op, y, _shift(index, global_index, y.shape[1]), global_context)
            else:
                y = _cross_scan(w, op, y)
            x = x + _linear(w, f"{op}.out_proj", _norm(w, f"{op}.out_norm", y))
            hidden = F.gelu(_linear(w, f"{block}.mlp.fc1", _norm(w, f"{block}.norm2", x)))
            x = x + _linear(w, f"{block}.mlp.fc2", hidden)
            global_index += 1
        if f"outnorm{stage}.weight" in w:
            maps.append(_norm(w, f"outnorm{stage}", x).permute(0, 3, 1, 2))
        if f"layers.{stage}.downsample.1.weight" in w:
            x = _conv(w, f"layers.{stage}.downsample.1", x, stride=2)
            x = _norm(w, f"layers.{stage}.downsample.3", x)
    return maps or _linear(w, "classifier.head", _norm(w, "classifier.norm", x).mean((1, 2)))
