"""Any model of timm in a config, as a control for the models of this project."""

import logging

import timm
from mmengine.logging import print_log
from torch import nn

from ssm_core import weights
from ssm_core.errors import ConfigError, nearest
from ssm_train.registry import MODELS


@MODELS.register_module(name="timm")
def timm_model(
    name: str,
    num_classes: int = 1000,
    in_chans: int = 3,
    pretrained: bool = False,
    options: dict | None = None,
) -> nn.Module:
    """Build a timm model: ``dict(type="timm", name="resnet18")``.

    Args:
        name: timm's name of the model.
        num_classes: length of the output.
        in_chans: number of channels of the images.
        pretrained: whether to download timm's weights. The first convolution is adapted to ``in_chans``.
        options: further arguments of the model, such as ``dict(drop_path_rate=0.1)``. Of the file
            ``checkpoint_path`` what fits is loaded, and the first convolution is adapted, too.

    Raises:
        ConfigError: timm has no such model.
        CheckpointError: the file ``checkpoint_path`` is missing, damaged or of another model.
    """
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    others = dict(options or {})
    file = others.pop("checkpoint_path", None)
    model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **others)
    trained_on = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (in_chans,))[0]
    if pretrained and trained_on != in_chans:
        _say(f"timm's weights of {name} are for {trained_on} channels: the first convolution is adapted to {in_chans}")
    if file is not None:
        state, _ = weights.read_state_dict(file)
        if words := weights.load_fitting(model, weights.strip_prefix(state, "backbone."), file):
            _say(f"{file}: {words}")
    return model


def _say(words: str) -> None:
    print_log(words, logger="current", level=logging.WARNING)
