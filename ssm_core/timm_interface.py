"""What timm expects of a network beside its forward pass: parameter groups, the classifier, maps of stages, sizes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, NoReturn, TypeVar, cast

import torch
from timm.models import build_model_with_cfg, resolve_pretrained_cfg
from torch import Tensor, nn

from ssm_core.layers import (
    MIN_SIDE,
    ClassifierHead,
    GlobalPool,
    SelectiveSSM,
    Stage,
    Stem,
    to_channels_first,
)
from ssm_core.ops.calling import NO_TORCHSCRIPT
from ssm_core.shipped import ShippedWeights

Network = TypeVar("Network", bound="TimmInterface")
Sides = int | tuple[int, int]
Layout = Literal["NCHW", "NHWC"]


def take_indices(indices: Sequence[int], count: int) -> tuple[int, ...]:
    """Return stage indices as increasing non-negative numbers. Negative indices count from the end.

    Raises:
        ValueError: there is no index, or one of them names no stage.
    """
    taken = sorted({i + count if i < 0 else i for i in indices})
    if not taken or taken[0] < 0 or taken[-1] >= count:
        raise ValueError(f"out_indices must name some of the stages 0 … {count - 1}, got {tuple(indices)}")
    return tuple(taken)


def check_sides(size: Sides | Sequence[int] | None) -> tuple[int, int] | None:
    """Return the height and the width of images; None for None.

    Args:
        size: the two sides, or one number for both.

    Raises:
        ValueError: they are no two whole numbers from 32 on.
    """
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= MIN_SIDE for side in sides):
        raise ValueError(f"img_size is a height and a width from {MIN_SIDE} pixels on, or one number for both: {size}")
    return sides


class TimmInterface(nn.Module):
    """The methods of a backbone of a stem, stages and a head that timm's functions and programs call.

    A network that takes them sets the attributes below. ``forward_features`` and all maps inside the network are
    channels-last, and ``forward_intermediates`` returns maps in timm's usual layout.
    """

    output_fmt = "NHWC"  # timm reads this name for the layout of forward_features

    num_classes: int
    num_features: int
    head_hidden_size: int
    out_indices: tuple[int, ...] | None
    # The usual size of the images, for those who ask. It changes nothing: the network takes all sizes from 32 on.
    img_size: tuple[int, int] | None
    stem: Stem
    stages: nn.Sequential
    out_norms: nn.ModuleDict
    head: nn.Module
    feature_info: list[dict[str, Any]]

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
            global_pool: how the last map is pooled, see :class:`~ssm_core.layers.ClassifierHead`. None keeps the
                present setting.

        Raises:
            ValueError: the model has no head because it returns maps (``out_indices``, ``features_only``), or there is
                no such pooling.
        """
        if not isinstance(self.head, ClassifierHead):
            raise ValueError(f"this {type(self).__name__} returns feature maps and has no classifier to reset")
        self.head.reset(num_classes, global_pool)
        self.num_classes = num_classes
        self.head_hidden_size = self.head.num_features

    def set_input_size(self, img_size: Sides | None = None) -> None:
        """Set the usual size of the images. The network takes all sizes from 32 × 32 on, and nothing else changes.

        A folder of the Hub names this size, and timm's programs scale images to it.

        Args:
            img_size: height and width in pixels, or one number for both; None keeps the present size.

        Raises:
            ValueError: a side is below 32.
        """
        self.img_size = check_sides(img_size) or self.img_size
        self._traits = {**getattr(self, "_traits", {}), "img_size": self.img_size}  # where timm keeps it, too

    def forward_features(
        self,
        images: Tensor,  # [B, in_chans, H, W]
    ) -> Tensor:  # [B, ⌈H/32⌉, ⌈W/32⌉, C]
        """Return the map of the last stage, channels-last."""
        return self.stages(self.stem(images))

    def forward_head(
        self,
        x: Tensor,  # [B, H, W, C]
        pre_logits: bool = False,
    ) -> Tensor:
        """Return the logits ``[B, num_classes]``, or with ``pre_logits`` the features that the classifier reads.

        A model without a head returns the map itself.
        """
        return self.head(x, pre_logits) if isinstance(self.head, ClassifierHead) else x

    def forward_intermediates(
        self,
        x: Tensor,  # [B, in_chans, H, W]
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Layout = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps of some stages.

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
        taken = self._taken(indices)
        maps = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages[: taken[-1] + 1] if stop_early else self.stages):
            x = stage(x)
            if i in taken:
                y = self.out_norms[str(i)](x) if norm and str(i) in self.out_norms else x
                maps.append(to_channels_first(y) if output_fmt == "NCHW" else y)
        return maps if intermediates_only else (x, maps)

    def get_intermediate_layers(
        self,
        x: Tensor,  # [B, in_chans, H, W]
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        norm: bool = False,
    ) -> list[Tensor]:
        """Return the outputs of some stages as DINO's vision transformers do, whose layers are blocks.

        Args:
            x: images.
            n: how many of the last stages, or their indices.
            reshape: whether to return maps ``[B, C, H', W']``, rather than tokens ``[B, H'·W', C]``.
            norm: see :meth:`forward_intermediates`.

        Raises:
            ValueError: an index is out of range.
        """
        layout: Layout = "NCHW" if reshape else "NHWC"
        found = self.forward_intermediates(x, n, norm, stop_early=True, output_fmt=layout, intermediates_only=True)
        maps = cast(list[Tensor], found)
        return maps if reshape else [tokens.flatten(1, 2) for tokens in maps]

    def _taken(self, indices: int | Sequence[int] | None) -> tuple[int, ...]:
        count = len(self.stages)
        if indices is None or isinstance(indices, int):
            indices = range(count - (count if indices is None else indices), count)
        return take_indices(indices, count)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the modules that the maps of some stages do not need.

        Args:
            indices: the stages, as in :meth:`forward_intermediates`.
            prune_norm: whether to remove the norms of the maps, too. There is no norm between the stages and the head.
            prune_head: whether to remove the classifier.

        Returns:
            The indices of the stages whose maps were asked for.
        """
        taken = self._taken(indices)
        pruned = taken[-1] + 1 < len(self.stages)
        self.stages = self.stages[: taken[-1] + 1]
        kept = () if prune_norm else [str(i) for i in taken if str(i) in self.out_norms]
        self.out_norms = nn.ModuleDict({i: self.out_norms[i] for i in kept})
        self.out_indices = None if self.out_indices is None else taken
        self.num_features = self.feature_info[taken[-1]]["num_chs"]
        if prune_head or pruned:
            self.head = nn.Identity()
            self.head_hidden_size = self.num_features
            self.num_classes = 0
        return list(taken)

    def __prepare_scriptable__(self) -> NoReturn:  # torch.jit.script calls it
        """Refuse TorchScript.

        Raises:
            RuntimeError: always; torch.jit.script raises the same of a graph of torch.fx.
        """
        raise RuntimeError(NO_TORCHSCRIPT)


def create_for_timm(
    model_class: type[Network],
    variant: str,
    pretrained: bool,
    filter_fn: Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]],
    shipped: Sequence[ShippedWeights] = (),
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Network:
    """Build a model for ``timm.create_model``.

    Args:
        model_class: the class of the model.
        variant: timm's name of the model.
        pretrained: whether to load the weights that timm's config of the model names.
        filter_fn: renames the weights of a file that another project wrote.
        shipped: the weights that come with the family's package.
        device: where to build it; torch's default device if left out.
        dtype: type of the weights; float32 if left out.
        **options: arguments of the model and of ``timm.models.build_model_with_cfg``.

    Raises:
        CheckpointError: the file of the weights that come with the package is damaged.
        RuntimeError: there are no weights of this name.
    """
    options = {**_for_shipped(variant, pretrained, shipped, options), **options}
    # Only some ways of extracting features take the stages out of their container.
    feature_cfg: dict[str, Any] = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter", "flatten_sequential": True}
    build: Callable[..., Network] = model_class
    stages = (options.get("pretrained_model_args") or {}).get("out_indices")
    if stages is not None and options.get("features_only"):
        # A folder with the backbone of a detector: its maps have norms of their own, and there is no head.
        build = partial(model_class, out_indices=stages)
        feature_cfg["norm"] = True
    with nullcontext() if device is None else torch.device(device):
        model: Network = build_model_with_cfg(
            build, variant, pretrained, pretrained_filter_fn=filter_fn, feature_cfg=feature_cfg, **options
        )
    cfg = getattr(model, "pretrained_cfg", None) or {}
    names = cfg.get("label_names") or ()
    if len(names) != getattr(model, "num_classes", len(names)):  # names of classes that a new head does not have
        cast(Any, model).pretrained_cfg = {key: value for key, value in cfg.items() if key != "label_names"}
    return model if dtype is None else model.to(dtype)


def _for_shipped(
    variant: str, pretrained: bool, shipped: Sequence[ShippedWeights], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Check the file of the weights that a model is going to load, and return what else the model needs for them."""
    cfg = resolve_pretrained_cfg(variant, options.get("pretrained_cfg"), options.get("pretrained_cfg_overlay"))
    row = next((row for row in shipped if str(row.path) == cfg.file), None)
    if row is None:
        tagged = [row.name for row in shipped if row.name.partition(".")[0] == variant]
        if pretrained and tagged and not (cfg.has_weights or cfg.state_dict):
            raise RuntimeError(
                f"{variant} has no weights without a tag: name those of {' or '.join(tagged)}, or leave out pretrained"
            )
        return {}
    if pretrained:
        row.checked()
    # As in folders of the Hub, because programs of timm read all images in colours.
    return {"grey_from_colours": True} if options.get("in_chans", cfg.input_size[0]) == 1 else {}
