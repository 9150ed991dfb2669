"""Settings of single parameters by parts of their names: rates, weight decay, and what is not trained at all."""

from collections.abc import Collection, Mapping
from typing import Any, TypedDict

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ssm_core.errors import ConfigError, nearest

PLACE = "optim_wrapper.paramwise_cfg.custom_keys"


class CustomKey(TypedDict, total=False):
    """What holds for the parameters that a key is meant for.

    ``lr_mult`` and ``decay_mult`` are factors of the optimizer's learning rate and weight decay. ``frozen`` leaves the
    parameters as they are: they have no gradients.
    """

    lr_mult: float
    decay_mult: float
    frozen: bool


def key_of_each(model: nn.Module, keys: Collection[str]) -> dict[str, str]:
    """The key that is meant for each parameter: as in mmengine, the longest that is a part of its name.

    Of keys with the same length, the first in the alphabet is taken. A parameter that a model has in two places has two
    names.

    Args:
        model: the model, without a wrapper for data parallelism.
        keys: the keys.

    Returns:
        Name of the parameter, as ``named_parameters`` has it, to the key. Parameters without a key are left out.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    in_order = sorted(sorted(keys), key=len, reverse=True)
    found = {}
    for first, *others in names.values():
        key = next((key for key in in_order if any(key in name for name in (first, *others))), None)
        if key is not None:
            found[first] = key
    return found


def check_names(model: nn.Module, keys: Collection[str]) -> None:
    """Check that every key is a part of some parameter's name.

    Raises:
        ConfigError: one is not. The message has the nearest name.
    """
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for key in keys:
        if not any(key in name for name in names):
            # Also the beginnings of names, which are the names of modules.
            known = names | {name for name, _ in model.named_modules()}
            raise ConfigError(f"{PLACE} has {key!r}, which is a part of no parameter's name{nearest(key, known)}")


def keys_in(optim_wrapper: Mapping[str, Any] | None) -> Mapping[str, CustomKey]:
    """The custom keys of a config's ``optim_wrapper``; none if it has none."""
    settings = optim_wrapper.get("paramwise_cfg") if isinstance(optim_wrapper, Mapping) else None
    return (settings or {}).get("custom_keys") or {}


def freeze(model: nn.Module, custom: Mapping[str, CustomKey]) -> list[nn.Module]:
    """Freeze the parameters whose key says so.

    This is done before a model is wrapped for data parallelism, which waits for the gradients of all that are trained.

    Args:
        model: the model, without a wrapper.
        custom: the keys.

    Returns:
        The largest modules that have parameters and have none that this call has not frozen. In training they run as in
        evaluation (:class:`FrozenHook`).

    Raises:
        ConfigError: a key that freezes is a part of no parameter's name, or has a factor as well.
    """
    freezing = [key for key, settings in custom.items() if settings.get("frozen")]
    for key in freezing:
        if other := next((name for name in custom[key] if name != "frozen"), None):
            raise ConfigError(f"{PLACE}.{key} has frozen=True and {other}, which frozen parameters do not need")
    check_names(model, freezing)
    keys = key_of_each(model, custom)
    frozen = {name for name, key in keys.items() if custom[key].get("frozen")}
    parameters = dict(model.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen_modules(model, [parameters[name] for name in frozen])


def frozen_modules(model: nn.Module, frozen: Collection[nn.Parameter]) -> list[nn.Module]:
    """The largest modules that have parameters, and none beside some frozen ones.

    Args:
        model: the model.
        frozen: the frozen parameters.
    """
    ids = set(map(id, frozen))
    modules: list[nn.Module] = []
    covered: set[nn.Module] = set()
    for module in model.modules():  # a module comes before those within it
        own = [id(parameter) for parameter in module.parameters()]
        if module not in covered and own and ids.issuperset(own):
            modules.append(module)
            covered.update(module.modules())
    return modules


class FrozenHook(Hook):
    """Keeps frozen modules in evaluation while the rest of the model is in training.

    Their batch norms then keep their statistics, and they have no dropout and no stochastic depth. The Runner registers
    it, since a training loop puts the whole model into training again and again.

    Args:
        modules: see :func:`freeze`.
    """

    runs_late = True
    priority = "HIGHEST"

    def __init__(self, modules: Collection[nn.Module]):
        self.modules = modules

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Put the modules into evaluation."""
        for module in self.modules:
            module.eval()
