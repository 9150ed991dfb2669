"""Starting a training from the weights of another one: comparing the configs of the two models."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

# Arguments of a backbone that do not change the meaning of its weights.
_FREE = {"arch", "num_classes", "in_chans", "out_indices", "drop_rate", "drop_path_rate", "global_pool",
         "frozen_stages", "img_size", "grey_from_colours", "fused"}  # fmt: skip


def other_arguments(trained: Mapping[str, Any], model: Mapping[str, Any], network: nn.Module) -> list[str]:
    """Arguments that differ between two trainings and change the meaning of weights that fit.

    The order of tokens is an example: it does not show in the names and shapes of the weights.

    Args:
        trained: config of the model, or of its backbone, in the training that the weights come from.
        model: config of the model, or of its backbone, in the training that starts from them.
        network: the backbone of the training that starts.

    Returns:
        The arguments of the earlier training, as ``name=value``.
    """
    then, now = (config.get("backbone", config) for config in (trained, model))
    if not then or then.get("type") != now.get("type"):
        return []
    defaults = {key: parameter.default for key, parameter in inspect.signature(type(network)).parameters.items()}
    # None means that `arch` decides, and the shapes of the weights show that.
    compared = [key for key in then if defaults.get(key) is not None and key not in _FREE]
    return [f"{key}={then[key]!r}" for key in compared if then[key] != now.get(key, defaults[key])]
