"""The skeleton of a backbone with stages, which the model families fill in."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeVar, cast

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import LayerNorm
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from ssm_core.hub import HubModel
from ssm_core.layers import (
    MIN_SIDE,
    Block,
    ClassifierHead,
    Downsample,
    ScanMixer,
    SelectiveSSM,
    Stage,
    Stem,
    fuse_convolutions,
    fuse_mlps,
    fuse_norms,
)
from ssm_core.layers.initial import draw_weights
from ssm_core.shipped import ShippedWeights
from ssm_core.timm_interface import Sides, TimmInterface, check_sides, take_indices

__all__ = ["MIN_SIDE", "Backbone", "imagenet_cfg", "look_up", "timm_cfgs"]

STEM_REDUCTION = 4

Value = TypeVar("Value")
Network = TypeVar("Network", bound="Backbone")


def look_up(table: Mapping[str, Value], name: str, what: str) -> Value:
    """Return ``table[name]``.

    Raises:
        ValueError: the table has no such entry; the message lists the entries and suggests the nearest one.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {what} {name!r}: choose one of {', '.join(map(repr, table))}{hint}")


def imagenet_cfg(crop_pct: float) -> dict[str, Any]:
    """Return timm's ``pretrained_cfg`` for a variant whose weights are not published yet.

    Args:
        crop_pct: share of the resized image's side that the test crop keeps.
    """
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1",
        "classifier": "head.fc",
        "license": "apache-2.0",
    }


def timm_cfgs(names: Iterable[str], crop_pct: float, shipped: Iterable[ShippedWeights] = ()) -> Mapping[str, Any]:
    """Return timm's ``default_cfgs`` of a family.

    Args:
        names: timm's names of the variants.
        crop_pct: see :func:`imagenet_cfg`.
        shipped: the weights that come with the family's package.
    """
    trained = {
        row.name: {key: tuple(value) if isinstance(value, list) else value for key, value in row.timm_cfg.items()}
        | {"file": str(row.path)}
        for row in shipped
        if row.timm_cfg is not None
    }
    # A name without a tag stands for the network alone, as before there were weights. timm would take the first tag
    # with weights as the default. The asterisk forbids this, if it comes after those tags.
    return cast(
        Mapping[str, Any], generate_default_cfgs({**trained, **{f"{name}.*": imagenet_cfg(crop_pct) for name in names}})
    )


def _require(holds: bool, name: str, what: str, given: object) -> None:
    if not holds:  # NaN fails every comparison
        raise ValueError(f"{name} must be {what}, got {given}")


class Backbone(TimmInterface, HubModel):
    """A hierarchical backbone of a stem, stages and a head, with the interface that timm expects.

    The input is a batch of images ``[B, in_chans, H, W]`` with sides of at least 32 pixels. Maps inside the network are
    channels-last. With ``out_indices`` the model has no classifier and returns the list of the maps of those stages.

    Args:
        depths: number of blocks in each stage.
        dims: number of channels in each stage.
        make_mixer: builds the mixer of a block. Its arguments are the index of the stage, the index of the block in the
            stage and the index of the block in the network.
        make_head: builds the head. It is not called when ``out_indices`` is given.
        mlp_ratio: hidden width of the MLPs, divided by the number of channels.
        norm_eps: epsilon of the norms in the stem, the blocks, the downsampling and the stages.
        downsample_bias: whether the downsampling convolutions have a bias.
        closing_norm: whether every stage ends with a norm. If not, every map of ``out_indices`` gets its own norm.
        layer_scale: initial value of the layer scales in the blocks; None for no layer scales.
        drop_path_rate: stochastic depth rate of the last block. The rate rises linearly from 0 in the first block.
        in_chans: number of channels of the images.
        num_classes: number of classes; with 0 the model returns the pooled features.
        out_indices: stages whose maps are returned. Stages after the last of them are not built.
        frozen_stages: number of stages, counted from the first, that are not trained. 0 freezes the stem alone, more
            freeze the stem and these stages, and -1 freezes nothing. What is frozen needs no gradients and runs as in
            evaluation, also after ``train()``: without stochastic depth. The norms of ``out_indices`` are trained.
        img_size: the usual height and width of the images, or one number for both. The network takes all sizes; see
            :meth:`~ssm_core.timm_interface.TimmInterface.set_input_size`.
        grey_from_colours: whether a network of one channel also takes images of three channels, and makes them grey.
        fused: whether layer norms and depthwise convolutions are computed by this project's kernels where that saves
            time: norms together with the sums of the residual stream and the rounding to autocast's dtype, and on a GPU
            convolutions together with SiLU. False takes PyTorch's layers. The weights are the same. See
            :func:`~ssm_core.layers.fuse_norms` and :func:`~ssm_core.layers.fuse_convolutions`.
        linear_std: standard deviation of the initial weights of linear layers, which are drawn from a normal
            distribution cut off at ±2. Scans initialise their own.

    Raises:
        ValueError: ``depths`` and ``dims`` differ in length or are empty, or a number is out of range.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        dims: Sequence[int],
        make_mixer: Callable[[int, int, int], ScanMixer],
        make_head: Callable[[], ClassifierHead],
        mlp_ratio: float,
        norm_eps: float,
        downsample_bias: bool,
        closing_norm: bool,
        layer_scale: float | None,
        drop_path_rate: float,
        in_chans: int,
        num_classes: int,
        out_indices: Sequence[int] | None,
        frozen_stages: int = -1,
        img_size: Sides | None = None,
        grey_from_colours: bool = False,
        fused: bool = True,
        linear_std: float = 0.02,
    ) -> None:
        super().__init__()
        for name, value in {
            "mlp_ratio": mlp_ratio, "drop_path_rate": drop_path_rate, "linear_std": linear_std, "in_chans": in_chans,
            "num_classes": num_classes,
        }.items():  # fmt: skip
            _require(isinstance(value, Real), name, "a number", value)
        if len(depths) != len(dims) or not depths:
            raise ValueError(f"depths and dims must have one entry a stage, got {tuple(depths)} and {tuple(dims)}")
        _require(min(depths) >= 0, "depths", "0 or more for every stage", tuple(depths))
        _require(min(dims) >= 1, "dims", "1 or more for every stage", tuple(dims))
        _require(mlp_ratio * min(dims) >= 1, "mlp_ratio", "large enough for a hidden channel in every stage", mlp_ratio)
        _require(0 <= drop_path_rate < 1, "drop_path_rate", "from 0 to below 1", drop_path_rate)
        _require(0 < linear_std <= 1, "linear_std", "above 0 and at most 1", linear_std)
        _require(in_chans >= 1, "in_chans", "1 or more", in_chans)
        _require(num_classes >= 0, "num_classes", "0 or more", num_classes)
        self.out_indices = None if out_indices is None else take_indices(out_indices, len(depths))
        count = len(depths) if self.out_indices is None else self.out_indices[-1] + 1
        self.in_chans = in_chans
        self.linear_std = linear_std
        self.img_size = check_sides(img_size)
        self.num_classes = num_classes if self.out_indices is None else 0
        self.num_features = dims[count - 1]

        total = max(sum(depths) - 1, 1)
        self.stem = Stem(in_chans, dims[0], norm_eps, grey_from_colours, type(self).__name__)
        self.stages = nn.Sequential()
        self.feature_info = []
        for i in range(count):
            first = sum(depths[:i])
            blocks = [
                Block(
                    dims[i],
                    make_mixer(i, j, first + j),
                    mlp_ratio,
                    drop_path_rate * (first + j) / total,
                    layer_scale,
                    norm_eps,
                )
                for j in range(depths[i])
            ]
            downsample = Downsample(dims[i - 1], dims[i], downsample_bias, norm_eps) if i else nn.Identity()
            norm = LayerNorm(dims[i], eps=norm_eps) if closing_norm else nn.Identity()
            self.stages.append(Stage(downsample, blocks, norm))
            self.feature_info.append({"num_chs": dims[i], "reduction": STEM_REDUCTION * 2**i, "module": f"stages.{i}"})
        self.out_norms = nn.ModuleDict()
        if self.out_indices is not None and not closing_norm:
            self.out_norms.update({str(i): LayerNorm(dims[i], eps=norm_eps) for i in self.out_indices})
        self.head: nn.Module = make_head() if self.out_indices is None else nn.Identity()
        self.head_hidden_size = getattr(self.head, "num_features", self.num_features)
        self.apply(self._init_weights)
        if fused:
            fuse_norms(self, always=False)
        else:
            fuse_convolutions(self, fused=False)
            fuse_mlps(self, fused=False)
        if not -1 <= frozen_stages <= count:
            raise ValueError(f"frozen_stages is a number from -1 to {count}, the stages of this model: {frozen_stages}")
        self.frozen_stages = frozen_stages
        for part in self._frozen():
            part.eval().requires_grad_(False)

    def _frozen(self) -> list[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.stem, *self.stages[: self.frozen_stages]]

    def train(self: Network, mode: bool = True) -> Network:
        """Choose between training and evaluation. Stages that are frozen stay in evaluation."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise linear layers with a truncated normal, and scans by their own rule.

        ``apply`` visits children first, so the rule of a scan overwrites what its linear layers got before.
        """
        if isinstance(module, nn.Linear):
            draw_weights(module.weight, self.linear_std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, SelectiveSSM):
            module.reset_parameters()

    def forward(
        self,
        images: Tensor,  # [B, in_chans, H, W]
    ) -> Tensor | list[Tensor]:
        """Return the logits ``[B, num_classes]``, or with ``out_indices`` a list of normed maps ``[B, C, H', W']``.

        Raises:
            ValueError: the input is not four-dimensional, has another number of channels, or has a side below 32.
        """
        if self.out_indices is not None:
            maps = self.forward_intermediates(
                images, self.out_indices, norm=True, stop_early=True, intermediates_only=True
            )
            return cast(list[Tensor], maps)
        return self.forward_head(self.forward_features(images))
