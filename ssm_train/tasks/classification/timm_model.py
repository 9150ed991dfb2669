"""Any model of timm in a config, as a control for the models of this project."""

import logging

import timm
from mmengine.logging import print_log
from timm.models import group_parameters
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
    frozen_stages: int = -1,
) -> nn.Module:
    """Build a timm model: ``dict(type="timm", name="resnet18")``.

    Args:
        name: timm's name of the model.
        num_classes: length of the output.
        in_chans: number of channels of the images.
        pretrained: whether to download timm's weights. The first convolution is adapted to ``in_chans``.
        options: further arguments of the model, such as ``dict(drop_path_rate=0.1)``. Of the file
            ``checkpoint_path`` what fits is loaded, and the first convolution is adapted, too.
        frozen_stages: number of stages that are not trained, see :func:`freeze_stages`.

    Raises:
        ConfigError: timm has no such model, or see :func:`freeze_stages`.
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
    if frozen_stages != -1:
        freeze_stages(model, frozen_stages)
    return model


def freeze_stages(model: nn.Module, count: int) -> None:
    """Take the gradients from the stem and the first stages of a timm model.

    The stages are the coarse groups of the model's ``group_matcher``: the stages of a network with maps of several
    sizes, the blocks of a plain transformer.

    Args:
        model: the model, with a classifier.
        count: number of stages; 0 for the stem alone.

    Raises:
        ConfigError: the model does not say what its stages are, or has not so many.
    """
    kind = type(model).__name__
    try:
        group_of = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    except (AttributeError, AssertionError) as error:  # it has no such method, or none for stages
        raise ConfigError(
            f"timm does not say what the stages of {kind} are, which frozen_stages counts: freeze parts by their names "
            "with optim_wrapper.paramwise_cfg.custom_keys"
        ) from error
    stages = max(group_of.values()) - 1  # the first group is the stem, the last one the classifier
    if not 0 <= count <= stages:
        raise ConfigError(f"frozen_stages is a number from -1 to {stages}, the stages of {kind}: {count}")
    for name, parameter in model.named_parameters():
        if group_of[name] <= count:
            parameter.requires_grad_(False)


def _say(words: str) -> None:
    print_log(words, logger="current", level=logging.WARNING)
