"""Starting a training from the weights of another one: what to tell the user about the two models."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

# Arguments of a backbone that do not change what its weights mean.
_FREE = {"arch", "num_classes", "in_chans", "out_indices", "drop_rate", "drop_path_rate", "global_pool"}


def other_arguments(trained: Mapping[str, Any], model: Mapping[str, Any], network: nn.Module) -> list[str]:
    """Arguments that change what fitting weights mean and that another training had otherwise, as ``name=value``.

    An order of tokens is such a one: nothing of it shows in the weights' names and shapes.

    Args:
        trained: the model in the config of that training, or its backbone.
        model: the model in the config of this one, or its backbone.
        network: this one's backbone.
    """
    then, now = (config.get("backbone", config) for config in (trained, model))
    if not then or then.get("type") != now.get("type"):
        return []
    defaults = {key: parameter.default for key, parameter in inspect.signature(type(network)).parameters.items()}
    # None stands for what `arch` says, which shows in the shapes.
    compared = [key for key in then if defaults.get(key) is not None and key not in _FREE]
    return [f"{key}={then[key]!r}" for key in compared if then[key] != now.get(key, defaults[key])]
