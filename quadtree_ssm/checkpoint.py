"""Maps the names of tensors in the released QuadMamba checkpoints (github.com/VISION-SJTU/QuadMamba) to our names."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from quadtree_ssm.modules import ReleasedQuadtreeScan
from ssm_core.conversion import ReleasedFormat, Source, count, filter_released, replaced, size_of
from ssm_core.weights import backbone_part

_TOP = {
    "stem.conv1": "patch_embed.0",
    "stem.norm1": "patch_embed.2",
    "stem.conv2": "patch_embed.5",
    "stem.norm2": "patch_embed.7",
    "head.transform": "classifier.norm",
    "head.fc": "classifier.head",
}
_DOWNSAMPLE = {"conv": "1", "norm": "3"}
_BLOCK = {
    "norm1": "norm",
    "mixer.in_proj": "op.in_proj",
    "mixer.conv": "op.conv2d",
    "mixer.out_norm": "op.out_norm",
    "mixer.out_proj": "op.out_proj",
    "mixer.scan.x_proj.weight": "op.x_proj_weight",
    "mixer.scan.dt_weight": "op.dt_projs_weight",
    "mixer.scan.dt_bias": "op.dt_projs_bias",
    "mixer.scan.A_log": "op.A_logs",
    "mixer.scan.D": "op.Ds",
    "mixer.scan.predictor.norm": "op.score_predictor.in_conv.0",
    "mixer.scan.predictor.fc1": "op.score_predictor.in_conv.1",
    "mixer.scan.predictor.fc2": "op.score_predictor.out_conv.0",
    "mixer.scan.predictor.fc3": "op.score_predictor.out_conv.2",
    "mixer.scan.predictor.fc4": "op.score_predictor.out_conv.4",
}


def source_of(name: str) -> Source:
    """Return the place in a released file of the tensor that :class:`~quadtree_ssm.QuadMamba` calls ``name``."""
    if match := re.fullmatch(r"stages\.(\d+)\.downsample\.(.+)", name):
        # The released code downsamples at the end of a stage. Our code downsamples at the start of the next stage.
        return Source(f"layers.{int(match[1]) - 1}.downsample.{replaced(match[2], _DOWNSAMPLE)}")
    if match := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)", name):
        return Source(f"layers.{match[1]}.blocks.{match[2]}.{replaced(match[3], _BLOCK)}")
    if match := re.fullmatch(r"out_norms\.(\d+)\.(.+)", name):
        return Source(f"outnorm{match[1]}.{match[2]}")
    return Source(replaced(name, _TOP))


def released_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the arguments of :class:`~quadtree_ssm.QuadMamba` from the names and shapes in a released state dict.

    Raises:
        ConversionError: a tensor that determines the architecture is missing.
    """
    stages = range(count(state_dict, "layers."))
    dims = tuple(size_of(state_dict, f"layers.{i}.blocks.0.norm.weight", 0) for i in stages)
    block = "layers.0.blocks.0"
    arguments: dict[str, Any] = {
        "depths": tuple(count(state_dict, f"layers.{i}.blocks.") for i in stages),
        "dims": dims,
        "d_state": size_of(state_dict, f"{block}.op.A_logs", 1),
        "ssm_ratio": size_of(state_dict, f"{block}.op.in_proj.weight", 0) / dims[0],
        "mlp_ratio": size_of(state_dict, f"{block}.mlp.fc1.weight", 0) / dims[0],
        "conv_bias": f"{block}.op.conv2d.bias" in state_dict,
        "in_chans": size_of(state_dict, "patch_embed.0.weight", 1),
        "token_order": "released",
    }
    normed = tuple(i for i in stages if f"outnorm{i}.weight" in state_dict)
    if normed:
        return {**arguments, "out_indices": normed}
    return {**arguments, "num_classes": size_of(state_dict, "classifier.head.weight", 0)}


RELEASED = ReleasedFormat(
    title="QuadMamba",
    # The files of VMamba use the same names, but they have no score predictor.
    landmark=re.compile(r"layers\.\d+\.blocks\.\d+\.op\.score_predictor\."),
    source_of=source_of,
    arguments=released_arguments,
)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Rename released QuadMamba weights to our names. Other weights keep their names.

    Of the weights of a whole classifier, detector or segmentor of this project, those of the backbone are taken.

    timm calls this function before it loads weights. The function warns if the model orders its tokens in another way
    than the released code, because its outputs will then differ.

    Args:
        state_dict: the weights by name.
        model: the model that will load them.
    """
    state_dict = backbone_part(state_dict)
    renamed = filter_released(state_dict, model, RELEASED)
    if renamed is not state_dict and not any(isinstance(m, ReleasedQuadtreeScan) for m in model.modules()):
        warnings.warn(
            "these weights come from the released QuadMamba code, which orders tokens differently: create the model "
            "with token_order='released' to use the order of their training, or train the model further",
            stacklevel=2,
        )
    return renamed
