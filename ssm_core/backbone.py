"""The skeleton of a backbone with stages, which the model families fill in, and timm's interface to it."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import LayerNorm, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssm_core.errors import InputError
from ssm_core.hub import HubModel
from ssm_core.layers import (
    Block,
    ClassifierHead,
    Downsample,
    GlobalPool,
    ScanMixer,
    SelectiveSSM,
    Stem,
    to_channels_first,
)

# The smallest side of an image, in pixels. It gives a map of 4 × 4 in the second stage and of 1 × 1 in the fourth.
MIN_SIDE = 32
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


def take_indices(indices: Sequence[int], count: int) -> tuple[int, ...]:
    """Return stage indices as increasing non-negative numbers. Negative indices count from the end.

    Raises:
        ValueError: there is no index, or one of them names no stage.
    """
    taken = sorted({i + count if i < 0 else i for i in indices})
    if not taken or taken[0] < 0 or taken[-1] >= count:
        raise ValueError(f"out_indices must name some of the stages 0 … {count - 1}, got {tuple(indices)}")
    return tuple(taken)


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


class Stage(nn.Module):
    """One stage of the backbone: downsampling, then blocks, then a closing norm.

    The first stage has no downsampling. Some families have no closing norm.

    Args:
        downsample: the downsampling, or ``nn.Identity()``.
        blocks: the blocks.
        norm: the closing norm, or ``nn.Identity()``.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[Block], norm: nn.Module) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.grad_checkpointing = False

    def forward(
        self,
        x: Tensor,  # [B, H, W, C]
    ) -> Tensor:  # [B, ⌈H/2⌉, ⌈W/2⌉, C'], or [B, H, W, C] in the first stage
        """Run the stage. Each block receives what the scan of the previous block chose."""
        x = self.downsample(x)
        chosen: Any = None
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                # checkpoint restores the random state, so that the second forward pass makes the same random choices.
                x, chosen = checkpoint(block, x, chosen, use_reentrant=False)
            else:
                x, chosen = block(x, chosen)
        return self.norm(x)


class Backbone(nn.Module, HubModel):
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

    Raises:
        ValueError: ``depths`` and ``dims`` differ in length or are empty, or an index or ``frozen_stages`` is out of
            range.
    """

    output_fmt = "NHWC"  # timm reads this name for the layout of forward_features

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
    ) -> None:
        super().__init__()
        if len(depths) != len(dims) or not depths:
            raise ValueError(f"depths and dims must have one entry a stage, got {tuple(depths)} and {tuple(dims)}")
        self.out_indices = None if out_indices is None else take_indices(out_indices, len(depths))
        count = len(depths) if self.out_indices is None else self.out_indices[-1] + 1
        self.in_chans = in_chans
        self.num_classes = num_classes if self.out_indices is None else 0
        self.num_features = dims[count - 1]

        total = max(sum(depths) - 1, 1)
        self.stem = Stem(in_chans, dims[0], norm_eps)
        self.stages = nn.ModuleList()
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

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        """Initialise linear layers with a truncated normal, and scans by their own rule.

        ``apply`` visits children first, so the rule of a scan overwrites what its linear layers got before.
        """
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, SelectiveSSM):
            module.reset_parameters()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay: norms, biases, layer scales, dynamics of the scans.

        Mamba's training code exempts the dynamics, too. The training code that the families' authors released does not.
        """
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim <= 1 or name.rpartition(".")[2] in SelectiveSSM.NO_WEIGHT_DECAY
        }

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the groups for layer-wise learning rates: the stem, the blocks and the head.

        Args:
            coarse: whether a whole stage forms one group.
        """
        if coarse:
            return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}
        return {
            "stem": r"^stem",
            "blocks": [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^stages\.(\d+)\.norm", (99999,)),
            ],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Choose whether the backward pass recomputes each block, so that its activations need not be kept."""
        for stage in self.stages:
            cast(Stage, stage).grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the last linear layer, or ``nn.Identity`` if the model has none."""
        return self.head.fc if isinstance(self.head, ClassifierHead) else self.head

    def reset_classifier(self, num_classes: int, global_pool: GlobalPool | None = None) -> None:
        """Replace the classifier.

        Args:
            num_classes: number of classes; with 0 the model returns the pooled features.
            global_pool: ``"avg"``, or ``""`` for no pooling. None keeps the present setting.

        Raises:
            ValueError: the model has no head because it returns maps (``out_indices``, ``features_only``).
        """
        if not isinstance(self.head, ClassifierHead):
            raise ValueError(f"this {type(self).__name__} returns feature maps and has no classifier to reset")
        self.head.reset(num_classes, global_pool)
        self.num_classes = num_classes

    def _check(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != self.in_chans or min(images.shape[2:]) < MIN_SIDE:
            raise InputError(
                f"{type(self).__name__} takes images [B, {self.in_chans}, H, W] with H and W at least {MIN_SIDE}, "
                f"got a tensor of shape {tuple(images.shape)}; resize, pad or batch the images"
            )

    def forward_features(
        self,
        images: Tensor,  # [B, in_chans, H, W]
    ) -> Tensor:  # [B, ⌈H/32⌉, ⌈W/32⌉, C]
        """Return the map of the last stage, channels-last."""
        self._check(images)
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(
        self,
        x: Tensor,  # [B, H, W, C]
        pre_logits: bool = False,
    ) -> Tensor:
        """Return the logits ``[B, num_classes]``, or with ``pre_logits`` the features that the classifier reads."""
        return self.head(x, pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,  # [B, in_chans, H, W]
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NHWC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps of some stages. This method is part of timm's interface.

        Args:
            x: images.
            indices: the stages. None means all stages, and a number n means the last n stages.
            norm: whether to apply a map's own norm. Only models with ``out_indices`` can have such norms.
            stop_early: whether to stop after the last of these stages.
            output_fmt: layout of the maps.
            intermediates_only: whether to return only the maps.

        Returns:
            The maps. Without ``intermediates_only``, a pair: the map of the last stage that ran (channels-last) and the
            maps.

        Raises:
            ValueError: an index is out of range, or the layout is unknown.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be NCHW or NHWC, got {output_fmt!r}")
        self._check(x)
        taken = self._taken(indices)
        maps = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages[: taken[-1] + 1] if stop_early else self.stages):
            x = stage(x)
            if i in taken:
                y = self.out_norms[str(i)](x) if norm and str(i) in self.out_norms else x
                maps.append(to_channels_first(y) if output_fmt == "NCHW" else y)
        return maps if intermediates_only else (x, maps)

    def _taken(self, indices: int | Sequence[int] | None) -> tuple[int, ...]:
        count = len(self.stages)
        if indices is None or isinstance(indices, int):
            indices = range(count - (count if indices is None else indices), count)
        return take_indices(indices, count)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the modules that the maps of some stages do not need. This method is part of timm's interface.

        Args:
            indices: the stages, as in :meth:`forward_intermediates`.
            prune_norm: has no effect, because there is no norm between the stages and the head.
            prune_head: whether to remove the classifier.

        Returns:
            The indices of the stages whose maps were asked for.
        """
        taken = self._taken(indices)
        pruned = taken[-1] + 1 < len(self.stages)
        self.stages = self.stages[: taken[-1] + 1]
        self.num_features = self.feature_info[taken[-1]]["num_chs"]
        if prune_head or pruned:
            self.head = nn.Identity()
            self.head_hidden_size = self.num_features
            self.num_classes = 0
        return list(taken)

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
