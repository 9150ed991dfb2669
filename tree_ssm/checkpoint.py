"""Maps the names of tensors in the released MambaTree checkpoints (github.com/EasonXiao-888/GrootVL) to our names."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ssm_core.conversion import ReleasedFormat, Source, count, filter_released, replaced, size_of
from ssm_core.weights import backbone_part

_TOP = {
    "stem.conv1": "patch_embed.conv1",
    "stem.norm1": "patch_embed.norm1.1",
    "stem.conv2": "patch_embed.conv2",
    "stem.norm2": "patch_embed.norm2.1",
    "head.transform.conv": "conv_head.0",
    "head.transform.bn": "conv_head.1.0",
    "head.fc": "head",
}
_DOWNSAMPLE = {"conv": "conv", "norm": "norm.1"}
_BLOCK = {
    "norm1": "norm1.0",
    "norm2": "norm2.0",
    "scale1.gamma": "gamma1",
    "scale2.gamma": "gamma2",
    "mixer.conv": "TreeSSM.conv2d",
    "mixer.out_norm": "TreeSSM.out_norm",
    "mixer.out_proj": "TreeSSM.out_proj",
    "mixer.scan.h_norm": "TreeSSM.h_norm",
    "mixer.scan.x_proj.weight": "TreeSSM.x_proj_weight",
    "mixer.scan.dt_weight": "TreeSSM.dt_projs_weight",
    "mixer.scan.dt_bias": "TreeSSM.dt_projs_bias",
    "mixer.scan.A_log": "TreeSSM.A_logs",
    "mixer.scan.D": "TreeSSM.Ds",
}
# The released code has one projection where our code has two. The first half of its rows gives the input of the scan,
# and the second half gives the gate.
_HALVES = {"mixer.in_proj.weight": 0, "mixer.gate_proj.weight": 1}


def source_of(name: str) -> Source:
    """Return the place in a released file of the tensor that :class:`~tree_ssm.MambaTreeV` calls ``name``."""
    if match := re.fullmatch(r"stages\.(\d+)\.downsample\.(.+)", name):
        # The released code downsamples at the end of a stage. Our code downsamples at the start of the next stage.
        return Source(f"levels.{int(match[1]) - 1}.downsample.{replaced(match[2], _DOWNSAMPLE)}")
    if match := re.fullmatch(r"stages\.(\d+)\.norm\.(.+)", name):
        return Source(f"levels.{match[1]}.norm.0.{match[2]}")
    if match := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)", name):
        block = f"levels.{match[1]}.blocks.{match[2]}"
        if match[3] in _HALVES:
            return Source(f"{block}.TreeSSM.in_proj.weight", _HALVES[match[3]], 2)
        return Source(f"{block}.{replaced(match[3], _BLOCK)}")
    return Source(replaced(name, _TOP))


def released_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the arguments of :class:`~tree_ssm.MambaTreeV` from the names and shapes in a released state dict.

    Raises:
        ConversionError: a tensor that determines the architecture is missing.
    """
    stages = range(count(state_dict, "levels."))
    dims = tuple(size_of(state_dict, f"levels.{i}.norm.0.weight", 0) for i in stages)
    block = "levels.0.blocks.0"
    arguments: dict[str, Any] = {
        "depths": tuple(count(state_dict, f"levels.{i}.blocks.") for i in stages),
        "dims": dims,
        "d_state": size_of(state_dict, f"{block}.TreeSSM.A_logs", 1),
        "ssm_ratio": size_of(state_dict, f"{block}.TreeSSM.out_proj.weight", 1) / dims[0],
        "mlp_ratio": size_of(state_dict, f"{block}.mlp.fc1.weight", 0) / dims[0],
        "conv_bias": f"{block}.TreeSSM.conv2d.bias" in state_dict,
        "in_chans": size_of(state_dict, "patch_embed.conv1.weight", 1),
        # This argument is only an initial value. Loading the weights overwrites it.
        "layer_scale": 1.0 if f"{block}.gamma1" in state_dict else None,
    }
    if "head.weight" in state_dict or "conv_head.0.weight" in state_dict:
        return {**arguments, "num_classes": size_of(state_dict, "head.weight", 0)}
    return {**arguments, "out_indices": tuple(stages)}


RELEASED = ReleasedFormat(
    title="MambaTree",
    landmark=re.compile(r"levels\.\d+\.blocks\.\d+\.TreeSSM\."),
    source_of=source_of,
    arguments=released_arguments,
)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Rename released MambaTree weights to our names. Other weights keep their names.

    Of the weights of a whole classifier, detector or segmentor of this project, those of the backbone are taken.

    timm calls this function before it loads weights.

    Args:
        state_dict: the weights by name.
        model: the model that will load them.
    """
    return filter_released(backbone_part(state_dict), model, RELEASED)
