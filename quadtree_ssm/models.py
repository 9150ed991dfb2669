"""QuadMamba: quadtree-based selective scan (Xie et al., NeurIPS 2024), written from the paper and its released code."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from timm.layers import LayerNorm
from timm.models import register_model

from quadtree_ssm.checkpoint import checkpoint_filter_fn
from quadtree_ssm.modules import (
    SHIFT_SIGNS,
    Choice,
    CrossScan,
    PredictorContext,
    QuadtreeLevels,
    QuadtreeScan,
    ReleasedQuadtreeScan,
)
from ssm_core.backbone import Backbone, look_up, timm_cfgs
from ssm_core.layers import ClassifierHead, GlobalPool, ScanMixer, SelectiveSSM
from ssm_core.shipped import FOLDER, read_shipped
from ssm_core.timm_interface import Sides, create_for_timm

Arch = Literal["nano", "lite", "tiny", "small", "base"]
TokenOrder = Literal["quadtree", "released"]
NORM_EPS = 1e-5
QUADTREE_STAGES = 2


class Architecture(NamedTuple):
    """The numbers that differ between the variants of the model."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    ssm_ratio: float
    drop_path_rate: float


# Small and base are the two configurations that the authors released. We inferred lite and tiny from the sizes and
# FLOPs in the paper. We added nano, which is small enough to train on a CPU. It is meant for few images, so that it has
# no stochastic depth.
ARCHITECTURES: dict[str, Architecture] = {
    "nano": Architecture((1, 1, 2, 1), (32, 64, 128, 256), 1.0, 0.0),
    "lite": Architecture((2, 2, 2, 2), (48, 96, 192, 384), 1.0, 0.1),
    "tiny": Architecture((2, 6, 2, 2), (64, 128, 256, 512), 1.0, 0.1),
    "small": Architecture((2, 2, 5, 2), (96, 192, 384, 768), 2.0, 0.2),
    "base": Architecture((2, 2, 15, 2), (96, 192, 384, 768), 2.0, 0.3),
}


class QuadMamba(Backbone, paper_url="https://arxiv.org/abs/2410.06806", pipeline_tag="image-classification"):
    """QuadMamba: quadtree scans in the first two stages, cross scans in the other stages.

    Args:
        depths: number of blocks in each stage. None means the value of ``arch``.
        dims: number of channels in each stage. None means the value of ``arch``.
        d_state: number N of states per channel.
        ssm_ratio: inner width D of a scan, divided by the number of channels C. None means the value of ``arch``.
        mlp_ratio: hidden width of the MLPs, divided by the number of channels.
        conv_bias: whether the depthwise convolutions have a bias.
        drop_path_rate: stochastic depth rate of the last block. None means the value of ``arch``.
        in_chans: number of channels of the images.
        num_classes: number of classes; with 0 the model returns the pooled features.
        out_indices: stages whose maps the model returns instead of logits. Each of these maps gets its own norm.
        token_order: ``"quadtree"`` for the nested order of the paper, or ``"released"`` for the order of the released
            code, which its checkpoints need (see :class:`~quadtree_ssm.modules.ReleasedQuadtreeScan`).
        arch: the variant that gives the values of arguments that are None.
        drop_rate: dropout rate before the classifier.
        global_pool: ``"avg"``, ``"max"``, ``"avgmax"``, ``"catavgmax"``, or ``""`` for a map that is not pooled (see
            :class:`~ssm_core.layers.ClassifierHead`).
        quadtree_levels: 2 splits the chosen quadrant once more; 1 stops at four quadrants; 0 scans row by row.
        choice: ``"learned"``, or the quadrant 0 … 3 (in raster order) that is always split. ``"random"`` draws a
            quadrant for every map in every forward pass of training, and evaluation splits quadrant 0. Only a learned
            choice has a score predictor.
        window_shift: whether every second block of a quadtree stage shifts the partition by an eighth of the height.
        predictor_context: ``"local"``, or ``"global"`` to give the score predictor the means of the quadrants as well,
            as in the first release of the code.
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

    family = "quadmamba"

    def __init__(
        self,
        depths: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        d_state: int = 1,
        ssm_ratio: float | None = None,
        mlp_ratio: float = 4.0,
        conv_bias: bool = False,
        drop_path_rate: float | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        out_indices: Sequence[int] | None = None,
        token_order: TokenOrder = "quadtree",
        *,
        arch: Arch = "small",
        drop_rate: float = 0.0,
        global_pool: GlobalPool = "avg",
        quadtree_levels: QuadtreeLevels = 2,
        choice: Choice = "learned",
        window_shift: bool = True,
        predictor_context: PredictorContext = "local",
        frozen_stages: int = -1,
        img_size: Sides | None = None,
        grey_from_colours: bool = False,
        fused: bool = True,
        linear_std: float = 0.02,
    ) -> None:
        base = look_up(ARCHITECTURES, arch, "QuadMamba arch")
        depths = base.depths if depths is None else depths
        dims = base.dims if dims is None else dims
        ssm_ratio = base.ssm_ratio if ssm_ratio is None else ssm_ratio
        orders = {"quadtree": QuadtreeScan, "released": ReleasedQuadtreeScan}
        quadtree_scan = look_up(orders, token_order, "token_order")

        def make_mixer(stage: int, index: int, block: int) -> ScanMixer:
            dim = dims[stage]
            sizes = (int(ssm_ratio * dim), d_state, math.ceil(dim / 16))
            scan: SelectiveSSM
            if stage >= QUADTREE_STAGES:
                scan = CrossScan(*sizes)
            else:
                shifted = window_shift and index % 2 == 1
                signs = SHIFT_SIGNS[block // 2 % len(SHIFT_SIGNS)] if shifted else None
                scan = quadtree_scan(*sizes, quadtree_levels, choice, predictor_context, signs)
            return ScanMixer(dim, scan, gated=False, conv_bias=conv_bias)

        super().__init__(
            depths=depths,
            dims=dims,
            make_mixer=make_mixer,
            make_head=lambda: ClassifierHead(
                LayerNorm(dims[-1], eps=NORM_EPS), dims[-1], num_classes, drop_rate, global_pool
            ),
            mlp_ratio=mlp_ratio,
            norm_eps=NORM_EPS,
            downsample_bias=True,
            closing_norm=False,
            layer_scale=None,
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
        """Load weights as ``nn.Module`` does. This method also accepts the names of the released QuadMamba.

        Args:
            state_dict: the weights by name.
            strict: whether the model and the weights must have the same names.
            assign: whether to use the tensors themselves instead of copying their values.
        """
        return super().load_state_dict(checkpoint_filter_fn(state_dict, self), strict, assign)


SHIPPED = read_shipped(Path(__file__).with_name(FOLDER))
default_cfgs = timm_cfgs([f"quadmamba_{arch}" for arch in ARCHITECTURES], 0.875, SHIPPED)


def _create_quadmamba(variant: str, pretrained: bool, **kwargs: Any) -> QuadMamba:
    return create_for_timm(QuadMamba, variant, pretrained, checkpoint_filter_fn, SHIPPED, **kwargs)


@register_model
def quadmamba_nano(pretrained: bool = False, **kwargs: Any) -> QuadMamba:
    """QuadMamba-Nano has 1.8 M parameters. Keyword arguments go to :class:`QuadMamba`."""
    return _create_quadmamba("quadmamba_nano", pretrained, **{"arch": "nano", **kwargs})


@register_model
def quadmamba_lite(pretrained: bool = False, **kwargs: Any) -> QuadMamba:
    """QuadMamba-Lite has 5.5 M parameters. Keyword arguments go to :class:`QuadMamba`."""
    return _create_quadmamba("quadmamba_lite", pretrained, **{"arch": "lite", **kwargs})


@register_model
def quadmamba_tiny(pretrained: bool = False, **kwargs: Any) -> QuadMamba:
    """QuadMamba-Tiny has 10.3 M parameters. Keyword arguments go to :class:`QuadMamba`."""
    return _create_quadmamba("quadmamba_tiny", pretrained, **{"arch": "tiny", **kwargs})


@register_model
def quadmamba_small(pretrained: bool = False, **kwargs: Any) -> QuadMamba:
    """QuadMamba-Small has 31.3 M parameters. Keyword arguments go to :class:`QuadMamba`."""
    return _create_quadmamba("quadmamba_small", pretrained, **{"arch": "small", **kwargs})


@register_model
def quadmamba_base(pretrained: bool = False, **kwargs: Any) -> QuadMamba:
    """QuadMamba-Base has 50.7 M parameters. Keyword arguments go to :class:`QuadMamba`."""
    return _create_quadmamba("quadmamba_base", pretrained, **{"arch": "base", **kwargs})
