"""Starting a training from the weights of another one: what is taken, and what to tell the user."""

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

# Arguments of a backbone that do not change what its weights mean.
_FREE = {"arch", "num_classes", "in_chans", "out_indices", "drop_rate", "drop_path_rate", "global_pool"}


def fitting(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that a model has too, under the same name and in the same shape."""
    return {name: t for name, t in found.items() if name in expected and expected[name].shape == t.shape}


def report(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What a model takes of a checkpoint and what not, in words; empty when the two agree."""
    taken = fitting(expected, found)
    afresh, unused = ([name for name in names if name not in taken] for names in (expected, found))
    if not afresh and not unused:
        return ""
    words = f"{len(taken)} tensors are taken; these start afresh: {_by_part(afresh)}"
    return f"{words}; these are not used: {_by_part(unused)}"


def _by_part(names: Iterable[str]) -> str:
    """The parts of a model (and those of its backbone) that tensors are in, with their numbers."""
    parts: Counter[str] = Counter()
    for name in names:
        first, *rest = name.split(".")
        parts[f"{first}.{rest[0]}" if first == "backbone" and rest else first] += 1
    return ", ".join(f"{part} ({number})" for part, number in parts.items()) or "none"


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
