"""Finds a misspelt config, key or type within a second, before torch and mmengine are imported, which takes several.

The files are parsed and not run. What cannot be known in this way is left to :mod:`.config_check`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ssm_core.errors import ConfigError, nearest
from ssm_train.runtime import class_text
from ssm_train.runtime.config_files import find_config
from ssm_train.runtime.config_keys import (
    LOADERS,
    OWN_LOADER_KEYS,
    PLAIN,
    RUNNER_EXTRAS,
    check_top_key,
    no_index,
    option_key,
    unknown_option,
)
from ssm_train.runtime.config_objects import (
    ALWAYS,
    BUILT,
    DEFAULT_TYPES,
    LOOPS,
    check_names,
    objects,
    parts,
    registry_at,
    renamed,
    unknown_type,
)
from ssm_train.runtime.config_text import read_text

_KINDS = ("type", "_scope_", "default_scope")  # keys that decide which others there may be


def check_early(path: str | Path, options: Iterable[str] = ()) -> None:
    """Check that a config exists, the names in it, and those on a command line.

    Args:
        path: see :func:`~ssm_train.runtime.config.load_config`, which says the same later on.
        options: changes ``key=value``.

    Raises:
        ConfigError: the config is missing, or a key or a type is unknown.
    """
    text = read_text(find_config(path))
    changed = [option_key(option) for option in options]
    runner = class_text.arguments("mmengine.runner.runner", "Runner")
    if runner is None or not text.complete:
        return
    top = (runner - {"cfg"}) | RUNNER_EXTRAS
    for name in text.keys:
        check_top_key(name, top)
    for number, key in enumerate(changed):
        if not _depends(key, changed[:number]):
            _check_option(text.values, key, top)
    touched = {key.partition(".")[0] for key in changed}
    if "default_scope" not in touched:
        _check_values({key: value for key, value in text.values.items() if key not in touched})


def _depends(key: str, earlier: list[str]) -> bool:
    """Whether what a key may be depends on earlier options."""
    places = key.split(".")
    before = {".".join(places[:depth]) for depth in range(len(places) + 1)}
    return any(
        other in before or (other.rpartition(".")[0] in before and other.split(".")[-1] in _KINDS) for other in earlier
    )


def _check_option(values: dict[str, Any], key: str, top: set[str]) -> None:
    """Check that a dotted key leads somewhere, as :func:`.config.apply_options` does."""
    places = key.split(".")
    node: Any = values
    for depth, part in enumerate(places):
        before = places[:depth]
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise no_index(key, ".".join(before), len(node))
            node = node[int(part)]
            continue
        if not isinstance(node, dict):
            return
        if part not in node:
            known = _possible(node, before, values) if depth else top
            if known and part not in known:
                raise unknown_option(key, ".".join(before), part, known | set(node))
            if depth or part not in (*LOADERS, *PLAIN):
                return
            node = {part: {}}
        node = node[part]


def _possible(node: dict, place: list[str], values: dict[str, Any]) -> set[str] | None:
    """The keys that a dict may have; None if they are not known."""
    top = place[0]
    if len(place) == 1 and top in LOADERS:
        return _loader_keys()
    if len(place) == 1 and top in PLAIN:
        return set(PLAIN[top])
    kind, scope = node.get("type", DEFAULT_TYPES.get(".".join(place))), _scope(values)
    if place[:2] == ["optim_wrapper", "paramwise_cfg"] or not isinstance(kind, str) or scope is None:
        return None
    found = class_text.find_definition(kind, scope, registry_at(place))
    accepted = class_text.accepted(found) if found else None
    return accepted and accepted | set(BUILT[top][1] if top in BUILT else ())


def _check_values(values: dict[str, Any]) -> None:
    """Check the types and the arguments of what the config builds, and the keys of dictionaries that no class takes."""
    for key, known in PLAIN.items():
        if isinstance(node := values.get(key), dict):
            check_names(key, node, known)
    for key in LOADERS:
        if isinstance(loader := values.get(key), dict):
            check_names(key, loader, _loader_keys() or loader)
            for place, node, registry in parts(key, loader):
                _check_object(place, node, registry, {}, values)
    for key, default in LOOPS.items():
        if not isinstance(loop := values.get(key), dict):
            continue
        if "type" in loop:
            _check_object(key, loop, "LOOPS", {}, values)
        elif isinstance(by_epoch := loop.get("by_epoch", True), bool):
            name = default or ("EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop")
            accepted = class_text.arguments("mmengine.runner.loops", name)
            check_names(key, loop, loop if accepted is None else accepted | {"by_epoch"})
    for key, (registry, extra) in BUILT.items():
        for place, node in objects(key, values.get(key)):
            _check_object(place, node, registry, extra, values)


def _check_object(place: str, node: dict, registry: str, extra: Mapping[str, Any], values: dict[str, Any]) -> None:
    kind, scope = node.get("type", DEFAULT_TYPES.get(place)), node.get("_scope_", _scope(values))
    if isinstance(kind, str) and isinstance(scope, str):
        found = class_text.find_definition(kind, scope, registry)
        accepted = class_text.accepted(found) if found else None
        if accepted is not None:
            check_names(f"{place} ({kind})", node, accepted | set(extra) | ALWAYS)
        elif found is None and "custom_imports" not in values:  # modules of the user's can register types, too
            _check_type(f"{place}.type", kind, scope, registry)
    for inner, item, other in parts(place, node):
        _check_object(inner, item, other, {}, values)


def _check_type(place: str, kind: str, scope: str, registry: str) -> None:
    """Raise if no package has a type, and one has a similar type."""
    if not class_text.is_unknown(kind, scope) or not (words := class_text.registry_words(registry)):
        return
    names = class_text.registered(registry, scope, kind)
    if renamed(kind) or nearest(kind, names):
        raise ConfigError(f"{place}: {unknown_type(kind, words, names)}")


def _loader_keys() -> set[str] | None:
    known = class_text.arguments("torch.utils.data.dataloader", "DataLoader")
    return known and known | set(OWN_LOADER_KEYS)


def _scope(values: dict[str, Any]) -> str | None:
    scope = values.get("default_scope", "mmengine")
    return scope if isinstance(scope, str) and scope.isidentifier() else None
