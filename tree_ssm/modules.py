"""The tree scan of MambaTree and the trees it can follow."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct, LayerNorm
from torch import Tensor, nn

from ssm_core.layers import SelectiveSSM, to_channels_first, to_channels_last
from ssm_core.ops.checks import accumulate_dtype
from tree_ssm.ops import (
    GuideDistance,
    Tree,
    grid_distances,
    minimum_spanning_tree,
    selective_tree_scan,
    state_readout,
    tree_scan,
)

TreeKind = Literal["minimum", "maximum", "random"]
TreeRoot = Literal["first", "center", "last"]
TreeSharing = Literal["block", "stage"]
HEAD_RATIO = 1.5


class GrownTree(NamedTuple):
    """The tree a block's scan followed, for :func:`ssm_core.layers.record_scans` and for sharing within a stage."""

    tree: Tree  # vertices are the tokens of the map, row by row
    height: int
    width: int


def scattered_weights(count: int, device: torch.device) -> Tensor:  # [count]
    """Numbers in [0, 1) without visible pattern, the same on every device and in every run (an integer hash)."""
    mask = 0xFFFFFFFF
    x = torch.arange(1, count + 1, device=device)
    for shift, factor in ((16, 0x45D9F3B), (15, 0x45D9F3B)):
        x = ((x ^ (x >> shift)) * factor) & mask
    return (x ^ (x >> 16)).double().div(2**32).float()


class TreeScan(SelectiveSSM):
    """The tree scan (MambaTree, section 3.2): every token hears every other along a tree grown from the features.

    A spanning tree of the 4-connected grid is grown from the input features, without gradient; the edge of a token to
    its parent lets pass Ā = exp(Δ·A) of that token, and h_i = Σ_j (∏ Ā over the path from i to j) Δ_j B_j x_j;
    y = C ⊙ LN(h) + D ⊙ x. With N > 1 states scan and LN are applied to each and contracted with C.

    Args:
        inner_dim: channels D.
        d_state: states N of a channel.
        dt_rank: rank R of the step size's projection.
        guide_distance: what the edges of the grid are weighed by.
        tree_kind: ``"minimum"`` joins similar tokens, ``"maximum"`` dissimilar ones; ``"random"`` ignores the
            features: new weights in every forward pass of training, always the same ones in evaluation.
        tree_root: the root, the first, central or last token; it decides whose Ā labels an edge.
        tree_sharing: ``"block"`` grows a tree in every block, ``"stage"`` in the first block of a stage for all of it.

    Raises:
        ValueError: an argument is unknown.
    """

    def __init__(
        self,
        inner_dim: int,
        d_state: int,
        dt_rank: int,
        guide_distance: GuideDistance = "cosine",
        tree_kind: TreeKind = "minimum",
        tree_root: TreeRoot = "first",
        tree_sharing: TreeSharing = "block",
    ) -> None:
        super().__init__(inner_dim, d_state, dt_rank, directions=1)
        for name, value, known in (
            ("guide_distance", guide_distance, ("cosine", "euclidean", "manhattan")),
            ("tree_kind", tree_kind, ("minimum", "maximum", "random")),
            ("tree_root", tree_root, ("first", "center", "last")),
            ("tree_sharing", tree_sharing, ("block", "stage")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.guide_distance: GuideDistance = guide_distance
        self.tree_kind: TreeKind = tree_kind
        self.tree_root: TreeRoot = tree_root
        self.tree_sharing: TreeSharing = tree_sharing
        self.h_norm = LayerNorm(inner_dim, eps=1e-5)

    @torch.no_grad()
    def grow_tree(
        self,
        x: Tensor,  # [B, H, W, D]
    ) -> Tree:
        """The spanning tree of every sample's map; no gradient passes through it."""
        batch, height, width, _ = x.shape
        if self.tree_kind == "random":
            edges = (height - 1) * width + height * (width - 1)
            if self.training:
                weight = torch.rand(batch, edges, device=x.device)
            else:
                weight = scattered_weights(edges, x.device).expand(batch, -1).contiguous()
        else:
            weight = grid_distances(x, self.guide_distance)
            if self.tree_kind == "maximum":
                weight = -weight
        last = height * width - 1
        root = {"first": 0, "center": height // 2 * width + width // 2, "last": last}[self.tree_root]
        return minimum_spanning_tree(weight, height, width, root=root)

    def forward(
        self,
        x: Tensor,  # [B, H, W, D]
        previous: GrownTree | None = None,
    ) -> tuple[Tensor, GrownTree]:
        """Scan the map; return the result ``[B, H, W, D]`` and the tree."""
        height, width = x.shape[1:3]
        if previous is not None and self.tree_sharing == "stage":
            grown = previous
        else:
            grown = GrownTree(self.grow_tree(x), height, width)
        y = self.scan(x.flatten(1, 2), grown.tree)
        return y.unflatten(1, (height, width)), grown

    def scan(
        self,
        x: Tensor,  # [B, L, D]
        tree: Tree,
    ) -> Tensor:  # [B, L, D]
        """The scan along a given tree, computed in float32 at least and returned in the dtype of ``x``."""
        delta, B, C = (part.squeeze(1) for part in self.project(x))
        dtype, norm, D = accumulate_dtype(x.dtype), self.h_norm, self.D[0]
        bias = self.dt_bias[0].to(dtype)
        if self.d_state == 1:
            A, B = self.decay()[0, :, 0].to(dtype), B.squeeze(-1).to(x.dtype)
            h = selective_tree_scan(x, delta.to(x.dtype), A, B, bias, tree)
            return state_readout(h, x, C.squeeze(2), D, norm.weight, norm.bias, norm.eps)
        step = F.softplus(delta.to(dtype) + bias)
        weight = self._edge_weights(step)
        source = (step * x.to(dtype)).unsqueeze(2) * B.to(dtype).unsqueeze(-1)
        h = tree_scan(source.flatten(2), weight.flatten(2), tree).unflatten(2, (self.d_state, self.inner_dim))
        h = F.layer_norm(h, norm.normalized_shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)
        return ((h * C.to(dtype).unsqueeze(-1)).sum(2) + x.to(dtype) * D.to(dtype)).to(x.dtype)

    def edge_weights(
        self,
        x: Tensor,  # [B, L, D]
    ) -> Tensor:  # [B, L, N, D]
        """Ā = exp(Δ·A) of every token, what the edge to its parent lets pass, for pictures and for analysis."""
        delta, dtype = self.project(x).delta.squeeze(1), accumulate_dtype(x.dtype)
        return self._edge_weights(F.softplus(delta.to(dtype) + self.dt_bias[0].to(dtype)))

    def _edge_weights(
        self,
        step: Tensor,  # [B, L, D]
    ) -> Tensor:  # [B, L, N, D]
        return (step.unsqueeze(2) * self.decay()[0].t()).exp_()


class ConvHead(ConvNormAct):
    """The last transform before the classifier: 1 × 1 convolution without bias · BatchNorm · GELU, channels-last.

    Args:
        dim: channels before.
        out_dim: channels after.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__(dim, out_dim, kernel_size=1, act_layer=nn.GELU)

    def forward(
        self,
        x: Tensor,  # [B, H, W, C]
    ) -> Tensor:  # [B, H, W, C']
        """Transform a map."""
        return to_channels_last(super().forward(to_channels_first(x)))
