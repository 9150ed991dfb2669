"""Checking the names in a config before anything is built, so that a typo costs a second and not an hour.

mmengine ignores unknown top-level keys. It finds a wrong argument only when it builds the object, which may be after
the first epoch.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from typing import Any, Literal

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import Registry, root
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch.utils.data import DataLoader

from ssm_core.errors import ConfigError, MissingPackageError, nearest
from ssm_train.registry import SCOPE
from ssm_train.runtime.config_keys import LOADERS, OWN_LOADER_KEYS, PLAIN, RUNNER_EXTRAS, check_top_key
from ssm_train.runtime.config_objects import (
    ALWAYS,
    BUILT,
    DEFAULT_TYPES,
    PARTS,
    check_names,
    objects,
    parts,
    registry_at,
    renamed,
    unknown_type,
)
from ssm_train.runtime.config_values import (
    RANGES,
    annotations_of,
    check_arguments,
    check_everywhere,
    check_keys,
    check_value,
    is_exact,
)

TOP_LEVEL_KEYS = (set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}) | RUNNER_EXTRAS
_LOADER_KEYS = set(inspect.signature(DataLoader.__init__).parameters) - {"self"} | set(OWN_LOADER_KEYS)
_LOOPS = {"val_cfg": ValLoop, "test_cfg": TestLoop}
# What the value of a top-level key is.
_TOP: dict[str, Any] = {
    "model": dict,
    **dict.fromkeys(("randomness", "env_cfg"), dict),
    **dict.fromkeys((*LOADERS, *_LOOPS, "train_cfg", "auto_scale_lr"), dict | None),
    **dict.fromkeys(("optim_wrapper", "default_hooks", "visualizer", "log_processor", "custom_imports"), dict | None),
    **dict.fromkeys(("val_evaluator", "test_evaluator", "param_scheduler"), dict | list[dict] | None),
    "activation_checkpointing": list | None,
    "custom_hooks": list[dict | Hook] | None,
    **dict.fromkeys(("default_scope", "load_from", "work_dir"), str | None),
    "experiment_name": str | int | None,
    **dict.fromkeys(("resume", "find_unused_parameters"), bool),
    "log_level": Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET"] | int,
    "compile": bool | dict | None,
    "sync_bn": Literal["torch"] | None,
    "process_timeout": float,
    **dict.fromkeys(("model_wrapper_cfg", "sharding"), dict | None),
}


def check_config(cfg: Config) -> None:
    """Check the top-level keys, the types and the arguments in a config.

    Raises:
        ConfigError: one of them is unknown. The message has its place and the nearest known name.
        MissingPackageError: the module of a type needs a package that is not installed.
    """
    for key, hint in _TOP.items():
        if key in cfg:
            check_value(key, cfg[key], hint, RANGES.get(key))
    scope = cfg.get("default_scope")
    if scope is not None and not _is_scope(scope):
        raise ConfigError(
            f"default_scope has to be the name of a package with a registry, such as {SCOPE}, not {scope!r}"
        )
    if scope == "ssm_core":
        raise ConfigError(f"default_scope is 'ssm_core': it must be 'ssm_train' now{renamed('ssm_core.')}")
    for key in cfg:
        check_top_key(key, TOP_LEVEL_KEYS)
    # mmseg looks at it at the first validation, when a training has run for long.
    if isinstance(tested := (cfg.get("model") or {}).get("test_cfg"), dict) and "mode" in tested:
        check_value("model.test_cfg.mode", tested["mode"], Literal["slide", "whole"])
    for key, hints in PLAIN.items():
        check_keys(key, cfg.get(key) or {}, hints)
    for key, hook in (cfg.get("default_hooks") or {}).items():
        check_value(f"default_hooks.{key}", hook, dict | None)
    for key in LOADERS:
        loader = cfg.get(key)
        if isinstance(loader, dict):
            check_names(key, loader, _LOADER_KEYS)
            if not isinstance(loader.get("dataset", {}), dict):
                raise ConfigError(f"{key}.dataset has to be a dictionary, not {loader['dataset']!r}")
            check_arguments(key, {k: v for k, v in loader.items() if k not in OWN_LOADER_KEYS}, DataLoader)
            check_keys(key, {name: loader[name] for name in OWN_LOADER_KEYS if name in loader}, OWN_LOADER_KEYS)
            _check_arguments(key, loader, scope)
    for key in ("train_cfg", *_LOOPS):
        _check_loop(key, cfg.get(key), scope)
    for key in cfg:
        if key in TOP_LEVEL_KEYS:
            check_everywhere(key, cfg[key])
    if (constructor := (cfg.get("optim_wrapper") or {}).get("constructor")) is not None:
        _check_constructor(constructor, cfg.optim_wrapper.get("paramwise_cfg"), scope)
    for key, (registry, extra) in BUILT.items():
        for place, node in objects(key, cfg.get(key)):
            _check_object(place, node, registry, scope, extra)


def possible_keys(node: dict, place: list[str], scope: str | None) -> set[str] | None:
    """The keys that a dict in a config may have.

    Args:
        node: the dict.
        place: keys and indices that lead to it from the top of the config.
        scope: registry scope of the config.

    Returns:
        The keys, or None if the dict may have any.
    """
    top = place[0] if place else None
    if top is None:
        return TOP_LEVEL_KEYS
    if place[:2] == ["optim_wrapper", "paramwise_cfg"]:
        return None  # only the constructor of the wrapper knows its keys
    if len(place) == 1 and (top in PLAIN or top in LOADERS):
        return set(PLAIN.get(top, _LOADER_KEYS))
    if len(place) == 1 and top in ("train_cfg", *_LOOPS) and "type" not in node:
        return _loop_keys(top, node)
    kind = node.get("type", DEFAULT_TYPES.get(".".join(place)))
    target = find_type(kind, scope, getattr(root, registry_at(place))) if isinstance(kind, str) else kind
    if target is None:
        return set()
    accepted = accepted_arguments(target)
    return None if accepted is None else accepted | set(BUILT[top][1] if top in BUILT else ())


def find_type(name: str, scope: str | None, registry: Registry) -> Callable | None:
    """Find the class or function that a ``type`` in a config names.

    Args:
        name: the type.
        scope: registry scope in which it is looked up first.
        registry: mmengine's root registry of such objects.

    Returns:
        The class or function, or None if there is none.
    """
    if name.startswith("."):
        return None  # Python would look for a module relative to none
    with registry.switch_scope_and_registry(scope) as scoped:
        try:
            found = scoped.get(name)
        except RuntimeError:  # mmengine raises it for a name that is neither registered nor importable
            return None
    return found if callable(found) else None  # a name may also lead to a module


def accepted_arguments(target: Callable) -> set[str] | None:
    """Names of the arguments of a function or class, including those that it passes on to base classes.

    Returns:
        The names, or None if any name is accepted.
    """
    if not inspect.isclass(target):
        parameters = inspect.signature(target).parameters.values()
        return None if _is_open(parameters) else {p.name for p in parameters}
    names: set[str] = set()
    classes = [cls for cls in target.__mro__[:-1] if "__init__" in vars(cls)]
    for cls in classes:
        parameters = inspect.signature(cls.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not _is_open(parameters):
            return names - {"self"}
    return None if classes else names


def annotation_at(node: dict, key: str, place: list[str], scope: str | None) -> tuple[Any, bool]:
    """What is known of an argument of the object that a config builds at a place.

    Args:
        node: the dict that is or may be an object.
        key: name of the argument.
        place: keys and indices that lead to the dict from the top of the config.
        scope: registry scope of the config.

    Returns:
        The annotation, which is ``Any`` if there is none, and whether :func:`check_config` checks the argument by it.
    """
    if key == "type" or (place[:1] == ["default_hooks"] and len(place) == 1):
        return Any, True
    if not place:
        return _TOP.get(key, Any), key in _TOP
    if len(place) == 1 and place[0] in PLAIN:
        return PLAIN[place[0]].get(key, Any), True
    if len(place) == 1 and place[0] in LOADERS:
        hint = {**annotations_of(DataLoader), **OWN_LOADER_KEYS}.get(key, Any)
        return hint, hint is not Any
    kind = node.get("type", DEFAULT_TYPES.get(".".join(place)))
    target = (
        find_type(kind, node.get("_scope_", scope), getattr(root, registry_at(place)))
        if isinstance(kind, str)
        else kind
    )
    if not callable(target):
        return Any, False
    hint = annotations_of(target).get(key, Any)
    return hint, hint is not Any and is_exact(target)


def _is_open(parameters: Any) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def _is_scope(name: str) -> bool:
    return name in root.MODELS.children or (name.isidentifier() and importlib.util.find_spec(name) is not None)


def _check_object(place: str, node: dict, registry: str, scope: str | None, extra: dict[str, Any]) -> None:
    kind = node.get("type", DEFAULT_TYPES.get(place))
    if kind is None:
        return
    if not (isinstance(kind, str) or callable(kind)):
        raise ConfigError(f"{place}.type has to be the name of a class, not {kind!r}")
    target = kind if callable(kind) else find_type(kind, node.get("_scope_", scope), getattr(root, registry))
    if target is None:
        _import_module_of(kind)
        raise ConfigError(f"{place}.type: {_unknown_type(kind, getattr(root, registry), scope)}")
    allowed = accepted_arguments(target)
    if allowed is not None:
        check_names(f"{place} ({kind})", node, allowed | set(extra) | ALWAYS)
    check_arguments(place, {key: value for key, value in node.items() if key != "type"}, target)
    check_keys(place, {key: node[key] for key in extra if key in node}, extra)
    if isinstance(average := node.get("ema_type"), str) and find_type(average, scope, root.MODELS) is None:
        raise ConfigError(f"{place}.ema_type: {_unknown_type(average, root.MODELS, scope)}")
    _check_arguments(place, node, scope)


def _check_constructor(kind: Any, settings: dict | None, scope: str | None) -> None:
    """Check the constructor of the optimizer's wrapper, and what it is given besides the wrapper's arguments."""
    place, registry = "optim_wrapper.constructor", root.OPTIM_WRAPPER_CONSTRUCTORS
    target = find_type(kind, scope, registry) if isinstance(kind, str) else kind
    if not callable(target):
        raise ConfigError(f"{place}: {_unknown_type(str(kind), registry, scope)}")
    check_arguments("optim_wrapper", {"paramwise_cfg": settings}, target)


def _import_module_of(kind: str) -> None:
    """Raise if a type with a full path is unknown because its module needs a package that is not installed."""
    package, _, rest = kind.partition(".")
    module = kind.rpartition(".")[0]
    if "." in rest and importlib.util.find_spec(package) is not None:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not module.startswith(str(error.name)):
                raise MissingPackageError(str(error.name), kind) from error


def _check_arguments(place: str, node: dict, scope: str | None) -> None:
    for key in PARTS:
        if isinstance(node.get(key), int | float):
            raise ConfigError(f"{place}.{key} has to be a dictionary, not {node[key]!r}")
    for inner, item, registry in parts(place, node):
        _check_object(inner, item, registry, scope, {})


def _check_loop(place: str, node: dict | None, scope: str | None) -> None:
    if not node:
        return
    if "type" in node:
        _check_object(place, node, "LOOPS", scope, {})
        return
    check_names(place, node, _loop_keys(place, node))
    check_arguments(place, node, _loop_of(place, node))


def _loop_of(place: str, node: dict) -> type:
    return _LOOPS.get(place) or (EpochBasedTrainLoop if node.get("by_epoch", True) else IterBasedTrainLoop)


def _loop_keys(place: str, node: dict) -> set[str]:
    return (accepted_arguments(_loop_of(place, node)) or set()) | {"by_epoch"}


def _unknown_type(name: str, registry: Registry, scope: str | None) -> str:
    package = name.split(".")[0]
    if "." in name and importlib.util.find_spec(package) is None:
        return f"there is no package {package!r}{nearest(package, (m.name for m in pkgutil.iter_modules()))}"
    names = set(registry.module_dict)
    for child in registry.children.values():
        names |= set(child.module_dict) if child.scope == scope else {f"{child.scope}.{n}" for n in child.module_dict}
    module, _, _ = name.rpartition(".")
    if "." in module:  # a full path
        names |= {f"{module}.{other}" for other in vars(sys.modules.get(module, object)) if other[:1].isupper()}
    return unknown_type(name, registry.name, names)
