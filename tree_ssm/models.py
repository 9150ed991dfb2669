"""MambaTreeV: tree state space model (Xiao et al., NeurIPS 2024), written from the paper and its released code."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from timm.models import register_model

from ssm_core.backbone import Backbone, look_up, timm_cfgs
from ssm_core.layers import ClassifierHead, GlobalPool, ScanMixer
from ssm_core.shipped import FOLDER, read_shipped
from ssm_core.timm_interface import Sides, create_for_timm
from tree_ssm.checkpoint import checkpoint_filter_fn
from tree_ssm.modules import HEAD_RATIO, ConvHead, TreeKind, TreeRoot, TreeScan, TreeSharing
from tree_ssm.ops import GuideDistance

Arch = Literal["nano", "lite", "tiny", "small", "base"]
NORM_EPS = 1e-6


class Architecture(NamedTuple):
    """The numbers that differ between the variants of the model."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    ssm_ratio: float
    drop_path_rate: float


# Tiny, small and base are the three configurations of the authors. We added nano and lite, which are about as large as
# the QuadMamba variants of the same names. Nano is small enough to train on a CPU. It is meant for few images, so that
# it has no stochastic depth.
ARCHITECTURES: dict[str, Architecture] = {
    "nano": Architecture((1, 1, 2, 1), (32, 64, 128, 256), 1.0, 0.0),
    "lite": Architecture((2, 2, 4, 2), (40, 80, 160, 320), 2.0, 0.1),
    "tiny": Architecture((2, 2, 9, 2), (80, 160, 320, 640), 2.0, 0.1),
    "small": Architecture((2, 2, 13, 2), (96, 192, 384, 768), 2.0, 0.3),
    "base": Architecture((2, 2, 13, 2), (128, 256, 512, 1024), 2.0, 0.5),
}


class MambaTreeV(Backbone, paper_url="https://arxiv.org/abs/2406.02395", pipeline_tag="image-classification"):
    """MambaTreeV: every block has a tree scan.

    Args:
        depths: number of blocks in each stage. None means the value of ``arch``.
        dims: number of channels in each stage. None means the value of ``arch``.
        d_state: number N of states per channel.
        ssm_ratio: inner width D of a scan, divided by the number of channels C. None means the value of ``arch``.
        mlp_ratio: hidden width of the MLPs, divided by the number of channels.
        layer_scale: initial value of the layer scales in both branches of a block; None for no layer scales.
        drop_path_rate: stochastic depth rate of the last block. None means the value of ``arch``.
        in_chans: number of channels of the images.
        num_classes: number of classes; with 0 the model returns the pooled features.
        out_indices: stages whose maps the model returns instead of logits. The maps are those after the closing norm.
        arch: the variant that gives the values of ``depths``, ``dims``, ``ssm_ratio`` and ``drop_path_rate``.
        conv_bias: whether the depthwise convolutions have a bias.
        drop_rate: dropout rate before the classifier.
        global_pool: ``"avg"``, ``"max"``, ``"avgmax"``, ``"catavgmax"``, or ``""`` for a map that is not pooled (see
            :class:`~ssm_core.layers.ClassifierHead`).
        guide_distance: the distance between the features of two tokens. It is the weight of the edge between them.
        tree_kind: ``"minimum"``, ``"maximum"`` or ``"random"`` spanning tree, or the ``"raster"`` path; see
            :class:`~tree_ssm.modules.TreeScan`.
        tree_root: the root of the tree: the first, the central or the last token.
        tree_sharing: ``"block"`` grows a tree in every block. ``"stage"`` uses the tree of the first block of a stage
            in all blocks of this stage.
        frozen_stages: number of stages, counted from the first, that are not trained. 0 freezes the stem alone, more
            freeze the stem and these stages, and -1 freezes nothing (see :class:`~ssm_core.backbone.Backbone`).
        img_size: the usual height and width of the images, or one number for both. The network takes all sizes.
        grey_from_colours: whether a network of one channel also takes images of three channels, and makes them grey.
            Folders for the Hub turn it on, because transformers and programs of timm read all images in colours.
        fused: whether this project's kernels compute layer norms, residual sums and depthwise convolutions where that
            saves time. The weights are the same (see :class:`~ssm_core.backbone.Backbone`).
        linear_std: standard deviation of the initial weights of linear layers. With the authors' 0.02, scans add little
            to what narrow networks compute before they are trained long; see docs/study.md.

    Raises:
        ValueError: an argument is out of its range; the message names the argument.
    """

    family = "mambatree"

    def __init__(
        self,
        depths: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        d_state: int = 1,
        ssm_ratio: float | None = None,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_path_rate: float | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        out_indices: Sequence[int] | None = None,
        *,
        arch: Arch = "tiny",
        conv_bias: bool = False,
        drop_rate: float = 0.0,
        global_pool: GlobalPool = "avg",
        guide_distance: GuideDistance = "cosine",
        tree_kind: TreeKind = "minimum",
        tree_root: TreeRoot = "first",
        tree_sharing: TreeSharing = "block",
        frozen_stages: int = -1,
        img_size: Sides | None = None,
        grey_from_colours: bool = False,
        fused: bool = True,
        linear_std: float = 0.02,
    ) -> None:
        base = look_up(ARCHITECTURES, arch, "MambaTreeV arch")
        depths = base.depths if depths is None else depths
        dims = base.dims if dims is None else dims
        ssm_ratio = base.ssm_ratio if ssm_ratio is None else ssm_ratio

        def make_mixer(stage: int, index: int, block: int) -> ScanMixer:
            dim = dims[stage]
            scan = TreeScan(
                int(ssm_ratio * dim),
                d_state,
                math.ceil(dim / 16),
                guide_distance,
                tree_kind,
                tree_root,
                tree_sharing,
            )
            return ScanMixer(dim, scan, gated=True, conv_bias=conv_bias)

        def make_head() -> ClassifierHead:
            width = int(HEAD_RATIO * dims[-1])
            return ClassifierHead(ConvHead(dims[-1], width), width, num_classes, drop_rate, global_pool)

        super().__init__(
            depths=depths,
            dims=dims,
            make_mixer=make_mixer,
            make_head=make_head,
            mlp_ratio=mlp_ratio,
            norm_eps=NORM_EPS,
            downsample_bias=False,
            closing_norm=True,
            layer_scale=layer_scale,
            linear_std=linear_std,
            drop_path_rate=base.drop_path_rate if drop_path_rate is None else drop_path_rate,
            in_chans=in_chans,
            num_classes=num_classes,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            img_size=img_size,
            grey_from_colours=grey_from_colours,
            fused=fused,
        )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> NamedTuple:
        """Load weights as ``nn.Module`` does. This method also accepts the names of the released MambaTree.

        Args:
            state_dict: the weights by name.
            strict: whether the model and the weights must have the same names.
            assign: whether to use the tensors themselves instead of copying their values.
        """
        return super().load_state_dict(checkpoint_filter_fn(state_dict, self), strict, assign)


SHIPPED = read_shipped(Path(__file__).with_name(FOLDER))
default_cfgs = timm_cfgs([f"mambatree_{arch}" for arch in ARCHITECTURES], 1.0, SHIPPED)


def _create_mambatree(variant: str, pretrained: bool, **kwargs: Any) -> MambaTreeV:
    return create_for_timm(MambaTreeV, variant, pretrained, checkpoint_filter_fn, SHIPPED, **kwargs)


@register_model
def mambatree_nano(pretrained: bool = False, **kwargs: Any) -> MambaTreeV:
    """MambaTreeV-Nano has 2.0 M parameters. Keyword arguments go to :class:`MambaTreeV`."""
    return _create_mambatree("mambatree_nano", pretrained, **{"arch": "nano", **kwargs})


@register_model
def mambatree_lite(pretrained: bool = False, **kwargs: Any) -> MambaTreeV:
    """MambaTreeV-Lite has 5.9 M parameters. Keyword arguments go to :class:`MambaTreeV`."""
    return _create_mambatree("mambatree_lite", pretrained, **{"arch": "lite", **kwargs})


@register_model
def mambatree_tiny(pretrained: bool = False, **kwargs: Any) -> MambaTreeV:
    """MambaTreeV-Tiny has 30.0 M parameters. Keyword arguments go to :class:`MambaTreeV`."""
    return _create_mambatree("mambatree_tiny", pretrained, **{"arch": "tiny", **kwargs})


@register_model
def mambatree_small(pretrained: bool = False, **kwargs: Any) -> MambaTreeV:
    """MambaTreeV-Small has 51.3 M parameters. Keyword arguments go to :class:`MambaTreeV`."""
    return _create_mambatree("mambatree_small", pretrained, **{"arch": "small", **kwargs})


@register_model
def mambatree_base(pretrained: bool = False, **kwargs: Any) -> MambaTreeV:
    """MambaTreeV-Base has 90.6 M parameters. Keyword arguments go to :class:`MambaTreeV`."""
    return _create_mambatree("mambatree_base", pretrained, **{"arch": "base", **kwargs})
