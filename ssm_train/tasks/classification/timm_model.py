"""Any model of timm in a config, as a control for the models of this project."""

import timm
from torch import nn

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
        pretrained: whether to download timm's weights.
        options: further arguments of the model, such as ``dict(drop_path_rate=0.1)``.

    Raises:
        ConfigError: timm has no such model.
    """
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **(options or {}))
