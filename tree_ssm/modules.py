"""The tree scan of MambaTree and the trees that it can follow."""

from typing import Literal, NamedTuple

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import ConvNormAct, LayerNorm
from torch import Tensor, nn

from ssm_core.layers import (
    GatedNorm,
    SelectiveSSM,
    apart,
    norms_and_gates,
    reads_apart,
    to_channels_first,
    to_channels_last,
)
from ssm_core.ops.checks import accumulate_dtype
from tree_ssm.ops import (
    GuideDistance,
    Tree,
    gated_state_readout,
    grid_distances,
    minimum_spanning_tree,
    selective_tree_scan,
    state_readout,
    tree_scan,
)

TreeKind = Literal["minimum", "maximum", "random", "raster"]
TreeRoot = Literal["first", "center", "last"]
TreeSharing = Literal["block", "stage"]
HEAD_RATIO = 1.5
_READERS = 3  # layers of a scan that read its features: the projection, the scan along the tree and the readout

# These look at shapes or values. Graphs of torch.fx call them as they are and do not look into them.
for _function in (
    "accumulate_dtype",
    "gated_state_readout",
    "grid_distances",
    "minimum_spanning_tree",
    "selective_tree_scan",
    "state_readout",
    "tree_scan",
):
    torch.fx.wrap(_function)


class GrownTree(NamedTuple):
    """The tree that a scan followed. The blocks of a stage can share it, and ``record_scans`` records it."""

    tree: Tree  # vertices are the tokens of the map, row by row
    height: int
    width: int


@torch.fx.wrap
def random_weights(batch: int, count: int, device: torch.device) -> Tensor:  # [batch, count]
    """Draw numbers in [0, 1) from torch's default generator."""
    return torch.rand(batch, count, device=device)


@torch.fx.wrap
def scattered_weights(count: int, device: torch.device) -> Tensor:  # [count]
    """Return numbers in [0, 1) without a visible pattern. An integer hash gives the same numbers on every device."""
    mask = 0xFFFFFFFF
    x = torch.arange(1, count + 1, device=device)
    for shift, factor in ((16, 0x45D9F3B), (15, 0x45D9F3B)):
        x = ((x ^ (x >> shift)) * factor) & mask
    return (x ^ (x >> 16)).double().div(2**32).float()


@torch.fx.wrap
def raster_path(batch: int, length: int, root: int, device: torch.device) -> Tree:
    """Return the tree that is the path through the tokens 0 … ``length`` - 1, hung up at the token ``root``."""
    token = torch.arange(length, device=device)
    order = (token - root).abs().argsort(stable=True)
    parent = token - (token - root).sign()
    return Tree(*(x.expand(batch, -1).contiguous() for x in (parent, order)))


class TreeScan(SelectiveSSM):
    """The tree scan (MambaTree, section 3.2), in which every token receives the states of all tokens along a tree.

    By default the scan grows a spanning tree of the 4-connected grid from the input features. No gradient passes
    through the tree. The weight of the edge between a token and its parent is Ā = exp(Δ·A) of the token. The state of
    token i is h_i = Σ_j (∏ Ā over the path from i to j) Δ_j B_j x_j, and the output is y = C ⊙ LN(h) + D ⊙ x. With
    N > 1 states, the scan and the LN are applied to each state, and C contracts the states.

    Args:
        inner_dim: number D of channels.
        d_state: number N of states per channel.
        dt_rank: rank R of the projection that gives the step sizes.
        guide_distance: the distance between features that is the weight of an edge of the grid.
        tree_kind: ``"minimum"`` joins similar tokens, and ``"maximum"`` joins dissimilar tokens. ``"random"`` ignores
            the features: training draws new weights in every forward pass, and evaluation always uses the same weights.
            ``"raster"`` is a path through all tokens, row by row, as models of sequences scan an image, both ways.
        tree_root: the root of the tree: the first, the central or the last token. The root decides which end of an edge
            is the parent, and the other end gives the edge its Ā.
        tree_sharing: ``"block"`` grows a tree in every block. ``"stage"`` grows a tree in the first block of a stage,
            and all blocks of the stage use it.

    Raises:
        ValueError: an argument has an unknown value.
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
            ("tree_kind", tree_kind, ("minimum", "maximum", "random", "raster")),
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
        """Grow the tree of every map in the batch. No gradient passes through it."""
        batch, height, width, _ = x.shape
        last = height * width - 1
        root = {"first": 0, "center": height // 2 * width + width // 2, "last": last}[self.tree_root]
        if self.tree_kind == "raster":
            return raster_path(batch, height * width, root, x.device)
        if self.tree_kind == "random":
            edges = (height - 1) * width + height * (width - 1)
            if self.training:
                weight = random_weights(batch, edges, x.device)
            else:
                weight = scattered_weights(edges, x.device).expand(batch, -1).contiguous()
        else:
            weight = grid_distances(x, self.guide_distance)
            if self.tree_kind == "maximum":
                weight = -weight
        return minimum_spanning_tree(weight, height, width, root=root)

    @reads_apart(_READERS)
    @norms_and_gates
    def forward(
        self,
        x: Tensor | tuple[Tensor, ...],  # [B, H, W, D]
        previous: GrownTree | None = None,
        after: GatedNorm | None = None,
    ) -> tuple[Tensor, GrownTree]:
        """Scan the map, and norm and gate the result if the scan is given what comes after it.

        Return the result ``[B, H, W, D]`` and the tree.
        """
        maps = apart(x, _READERS)
        height, width = maps[0].shape[1:3]
        if previous is not None and self.tree_sharing == "stage":
            grown = previous
        else:
            grown = GrownTree(self.grow_tree(maps[0]), height, width)
        if after is not None:
            after = GatedNorm(after.norm, after.gate.flatten(1, 2))
        y = self.scan(tuple(one.flatten(1, 2) for one in maps), grown.tree, after)
        return y.unflatten(1, (height, width)), grown

    def scan(
        self,
        x: Tensor | tuple[Tensor, ...],  # [B, L, D]
        tree: Tree,
        after: GatedNorm | None = None,
    ) -> Tensor:  # [B, L, D]
        """Scan along a given tree, and norm and gate the result if the scan is given what comes after it.

        The scan computes in float32 or wider and returns the dtype of ``x``, or that of the norm after it.
        """
        of_projection, x, of_output = apart(x, _READERS)
        delta, B, C = (part.squeeze(1) for part in self.project(of_projection))
        dtype, norm, D = accumulate_dtype(x.dtype), self.h_norm, self.D[0]
        bias = self.dt_bias[0].to(dtype)
        if self.d_state == 1:
            A, B = self.decay()[0, :, 0].to(dtype), B.squeeze(-1).to(x.dtype)
            h = selective_tree_scan(x, delta.to(x.dtype), A, B, bias, tree)
            readout = (h, of_output, C.squeeze(2), D, norm.weight, norm.bias)
            if after is not None and after.norm.gates_in_one_type(of_output, after.gate):
                out = after.norm
                return gated_state_readout(*readout, after.gate, out.weight, out.bias, norm.eps, out.eps)
            y = state_readout(*readout, norm.eps)
            return y if after is None else after.of(y)
        step = F.softplus(delta.to(dtype) + bias)
        weight = self._edge_weights(step)
        source = (step * x.to(dtype)).unsqueeze(2) * B.to(dtype).unsqueeze(-1)
        h = tree_scan(source.flatten(2), weight.flatten(2), tree).unflatten(2, (self.d_state, self.inner_dim))
        h = F.layer_norm(h, norm.normalized_shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)
        y = ((h * C.to(dtype).unsqueeze(-1)).sum(2) + of_output.to(dtype) * D.to(dtype)).to(x.dtype)
        return y if after is None else after.of(y)

    def edge_weights(
        self,
        x: Tensor,  # [B, L, D]
    ) -> Tensor:  # [B, L, N, D]
        """Compute Ā = exp(Δ·A) of every token, which is the weight of the edge to its parent.

        Pictures and analyses use this method.
        """
        delta, dtype = self.project(x).delta.squeeze(1), accumulate_dtype(x.dtype)
        return self._edge_weights(F.softplus(delta.to(dtype) + self.dt_bias[0].to(dtype)))

    def _edge_weights(
        self,
        step: Tensor,  # [B, L, D]
    ) -> Tensor:  # [B, L, N, D]
        return (step.unsqueeze(2) * self.decay()[0].t()).exp_()


class ConvHead(ConvNormAct):
    """The transform before the classifier: 1 × 1 convolution without bias · BatchNorm · GELU, on channels-last maps.

    Args:
        dim: number C of input channels.
        out_dim: number C' of output channels.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__(dim, out_dim, kernel_size=1, act_layer=nn.GELU)

    def forward(
        self,
        x: Tensor,  # [B, H, W, C]
    ) -> Tensor:  # [B, H, W, C']
        """Transform a map."""
        return to_channels_last(super().forward(to_channels_first(x)))
