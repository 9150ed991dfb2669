"""Groups of parameters with the same learning rate and weight decay, by timm's rules and by names."""

import re
from collections import defaultdict
from typing import TypedDict

from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIMIZERS
from timm.models import group_parameters
from torch import nn

from ssm_core.errors import ConfigError
from ssm_train.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from ssm_train.runtime.custom_keys import PLACE, CustomKey, check_names, freeze, key_of_each


class ParamwiseCfg(TypedDict, total=False):
    """The settings of :class:`TimmOptimWrapperConstructor`."""

    layer_decay: float
    no_decay_keys: list[str]
    norms_too: bool
    custom_keys: dict[str, CustomKey]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TimmOptimWrapperConstructor:
    """Groups parameters by weight decay and learning rate.

    As in timm, biases, norms and the parameters that a module's ``no_weight_decay()`` names do not decay.
    ``paramwise_cfg`` may have these keys:

    - ``layer_decay``: factor of the learning rate from each layer of the backbone to the layer before it. It needs a
      network with timm's ``group_matcher``. All other parts of the model have the full rate.
    - ``no_decay_keys``: regular expressions. A parameter then does not decay if one of them is found in its name, and
      decays otherwise. Recipes for downstream tasks use this, in which biases and the dynamics of scans do decay.
    - ``norms_too``: whether norms do not decay either, in addition to ``no_decay_keys`` and whatever their names are.
    - ``custom_keys``: settings by parts of names, such as ``{"backbone": dict(lr_mult=0.1)}``. As in mmengine, the
      longest key that is a part of a parameter's name is meant for it. ``lr_mult`` and ``decay_mult`` are factors of
      the optimizer's ``lr`` and ``weight_decay``; ``frozen=True`` leaves the parameters as they are. A factor takes
      the place of what the rules above say. What a key does not name stays as the rules say: unlike in mmengine, norms
      of the example above do not begin to decay.

    Args:
        optim_wrapper_cfg: config of the wrapper, with the config of the ``optimizer`` in it.
        paramwise_cfg: the keys above.

    Raises:
        ConfigError: ``paramwise_cfg`` has another key, or ``norms_too`` without ``no_decay_keys``, or a ``decay_mult``
            and the optimizer has no ``weight_decay``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: ParamwiseCfg | None = None):
        self.optim_wrapper_cfg = optim_wrapper_cfg
        paramwise_cfg = paramwise_cfg or {}
        known = tuple(ParamwiseCfg.__annotations__)
        if unknown := sorted(set(paramwise_cfg) - set(known)):
            raise ConfigError(f"optim_wrapper.paramwise_cfg has no {', '.join(unknown)}, only {', '.join(known)}")
        self.layer_decay, self.no_decay_keys, self.norms_too, custom = (paramwise_cfg.get(key) for key in known)
        self.custom_keys: dict[str, CustomKey] = custom or {}
        if self.norms_too and self.no_decay_keys is None:
            raise ConfigError(
                "optim_wrapper.paramwise_cfg.norms_too needs no_decay_keys, without which no norm decays anyway"
            )
        decaying = [key for key, settings in self.custom_keys.items() if "decay_mult" in settings]
        if decaying and "weight_decay" not in optim_wrapper_cfg["optimizer"]:
            raise ConfigError(f"{PLACE}.{decaying[0]}.decay_mult needs optim_wrapper.optimizer.weight_decay")

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer over the parameter groups of a model, and its wrapper.

        Raises:
            ConfigError: ``layer_decay`` is set, and the backbone has no ``group_matcher``; or a key is a part of no
                name, or of no parameter that is trained; or no parameter is trained.
        """
        model = model.module if is_model_wrapper(model) else model
        check_names(model, self.custom_keys)
        freeze(model, self.custom_keys)  # the Runner has done so before it wrapped the model
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        total, trained = (sum(size for size, used in sizes if used or every) for every in (True, False))
        if trained < total:
            MMLogger.get_current_instance().info(f"{total - trained:,} of {total:,} parameters are frozen")
        wrapper_cfg = dict(self.optim_wrapper_cfg)
        optimizer_cfg = dict(wrapper_cfg.pop("optimizer"))
        groups = self._groups(model, optimizer_cfg["lr"], optimizer_cfg.get("weight_decay", 0.0))
        optimizer = OPTIMIZERS.build({**optimizer_cfg, "params": groups})
        wrapper_cfg.setdefault("type", "ssm_train.GuardedOptimWrapper")
        return OPTIM_WRAPPERS.build(wrapper_cfg, default_args={"optimizer": optimizer})

    def _groups(self, model: nn.Module, lr: float, decay: float) -> list[dict]:
        exempt, factors = self._exempt(model), self._rate_factors(model)
        keys = key_of_each(model, self.custom_keys)
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not trained:
            raise ConfigError("there is nothing to train: every parameter of the model is frozen")
        self._check_use(keys, trained)
        members: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in trained.items():
            own = self.custom_keys[keys[name]] if name in keys else CustomKey()
            own_decay = decay * own["decay_mult"] if "decay_mult" in own else 0.0 if name in exempt else decay
            members[own.get("lr_mult", factors.get(name, 1.0)), own_decay].append(parameter)
        return [
            {"params": parameters, "lr": lr * factor, "weight_decay": own_decay}
            for (factor, own_decay), parameters in sorted(members.items(), key=lambda item: item[0])
        ]

    def _check_use(self, keys: dict[str, str], trained: dict[str, nn.Parameter]) -> None:
        """Raise if a factor is for frozen parameters alone: those of an adapted language model, for example."""
        used = {keys[name] for name in trained if name in keys}
        for key, settings in self.custom_keys.items():
            if settings and not settings.get("frozen") and key in keys.values() and key not in used:
                raise ConfigError(f"{PLACE} has {key!r}, which is for frozen parameters alone: leave it out")

    def _exempt(self, model: nn.Module) -> set[str]:
        """Names of the parameters that do not decay."""
        names = dict(model.named_parameters())
        if self.no_decay_keys is None:
            return no_weight_decay(model) | {n for n, p in names.items() if p.ndim <= 1 or n.endswith(".bias")}
        named = {name for name in names if any(re.search(key, name) for key in self.no_decay_keys)}
        return named | (parameters_of_norms(model) if self.norms_too else set())

    def _rate_factors(self, model: nn.Module) -> dict[str, float]:
        """Factors of the learning rate, by the names of the parameters of the backbone."""
        if self.layer_decay is None:
            return {}
        network, prefix = (model.backbone, "backbone.") if hasattr(model, "backbone") else (model, "")
        if not hasattr(network, "group_matcher"):
            raise ConfigError(
                f"optim_wrapper.paramwise_cfg.layer_decay needs a backbone of this project or of timm, because "
                f"{type(network).__name__} has no group_matcher that names its layers"
            )
        layers = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
        last = max(layers.values())
        return {f"{prefix}{name}": self.layer_decay ** (last - layer) for name, layer in layers.items()}


def parameters_of_norms(model: nn.Module) -> set[str]:
    """Full names of the weights and biases of all layer, batch, group and instance norms."""
    kinds = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    return {
        _full_name(prefix, name)
        for prefix, module in model.named_modules()
        if isinstance(module, kinds)
        for name, _ in module.named_parameters(recurse=False)
    }


def no_weight_decay(model: nn.Module) -> set[str]:
    """Full names of the parameters that the ``no_weight_decay()`` of some module names."""
    return {
        _full_name(prefix, name)
        for prefix, module in model.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }


def _full_name(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter
