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
    check_names,
    objects,
    parts,
    registry_at,
    renamed,
    unknown_type,
)
from ssm_train.runtime.config_text import ConfigText, read_text


def check_early(path: str | Path, options: Iterable[str] = ()) -> None:
    """Check that a config exists, the names in it, and those on a command line.

    Args:
        path: see :func:`~ssm_train.runtime.config.load_config`, which says the same later on.
        options: changes ``key=value``.

    Raises:
        ConfigError: the config is missing, or a key or a type is unknown.
    """
    text = read_text(find_config(path))
    runner = class_text.arguments("mmengine.runner.runner", "Runner")
    if runner is None:
        return
    top = (runner - {"cfg"}) | RUNNER_EXTRAS
    for name in text.keys:
        check_top_key(name, top)
    changed = [option_key(option) for option in options]
    for number, key in enumerate(changed):
        if not _depends(key, changed[:number]):
            _check_option(text, key, top)
    if not any(map(_is_kind, changed)):
        _check_objects(text)


def _depends(key: str, earlier: list[str]) -> bool:
    """Whether what a key may be depends on earlier options."""
    places = key.split(".")
    before = [".".join(places[:depth]) for depth in range(len(places) + 1)]
    return any(other in before or (other.rpartition(".")[0] in before and _is_kind(other)) for other in earlier)


def _is_kind(key: str) -> bool:
    return key.split(".")[-1] in ("type", "_scope_", "default_scope")


def _check_option(text: ConfigText, key: str, top: set[str]) -> None:
    """Check that a dotted key leads somewhere, as :func:`.config.apply_options` does."""
    places = key.split(".")
    node: Any = text.values
    for depth, part in enumerate(places):
        before = places[:depth]
        if isinstance(node, list | tuple):
            if not part.isdigit() or int(part) >= len(node):
                raise no_index(key, ".".join(before), len(node))
            node = node[int(part)]
            continue
        if not isinstance(node, dict) or (not depth and not text.complete):
            return
        if part not in node:
            known = top if not depth else _possible(node, before, text)
            if known and part not in known:
                raise unknown_option(key, ".".join(before), part, known | set(node))
            if depth or part not in (*LOADERS, *PLAIN):
                return
            node = {part: {}}
        node = node[part]


def _possible(node: dict, place: list[str], text: ConfigText) -> set[str] | None:
    """The keys that a dict may have; None if they are not known."""
    top = place[0]
    if len(place) == 1 and top in LOADERS:
        known = class_text.arguments("torch.utils.data.dataloader", "DataLoader")
        return known and known | set(OWN_LOADER_KEYS)
    if len(place) == 1 and top in PLAIN:
        return set(PLAIN[top])
    kind, scope = node.get("type"), _scope(text)
    if place[:2] == ["optim_wrapper", "paramwise_cfg"] or not isinstance(kind, str) or scope is None:
        return None
    found = class_text.find_definition(kind, scope, registry_at(place))
    accepted = class_text.accepted(found) if found else None
    return accepted and accepted | set(BUILT[top][1] if top in BUILT else ())


def _check_objects(text: ConfigText) -> None:
    """Check the types and the arguments of what the config builds."""
    for key in LOADERS:
        if isinstance(loader := text.values.get(key), dict):
            for place, node, registry in parts(key, loader):
                _check_object(place, node, registry, {}, text)
    for key in ("train_cfg", "val_cfg", "test_cfg"):
        if isinstance(loop := text.values.get(key), dict) and "type" in loop:
            _check_object(key, loop, "LOOPS", {}, text)
    for key, (registry, extra) in BUILT.items():
        for place, node in objects(key, text.values.get(key)):
            _check_object(place, node, registry, extra, text)


def _check_object(place: str, node: dict, registry: str, extra: Mapping[str, Any], text: ConfigText) -> None:
    kind, scope = node.get("type", DEFAULT_TYPES.get(place)), node.get("_scope_", _scope(text))
    if isinstance(kind, str) and isinstance(scope, str):
        found = class_text.find_definition(kind, scope, registry)
        accepted = class_text.accepted(found) if found else None
        if accepted is not None:
            check_names(f"{place} ({kind})", node, accepted | set(extra) | ALWAYS)
        elif found is None:
            _check_type(f"{place}.type", kind, scope, registry, text)
    for inner, item, other in parts(place, node):
        _check_object(inner, item, other, {}, text)


def _check_type(place: str, kind: str, scope: str, registry: str, text: ConfigText) -> None:
    """Raise if no package has a type, and one has a similar type."""
    own = not text.complete or "custom_imports" in text.values  # modules of the user's can register types, too
    if own or not class_text.is_unknown(kind, scope) or not (words := class_text.registry_words(registry)):
        return
    names = class_text.registered(registry, scope, kind)
    if renamed(kind) or nearest(kind, names):
        raise ConfigError(f"{place}: {unknown_type(kind, words, names)}")


def _scope(text: ConfigText) -> str | None:
    scope = text.values.get("default_scope", "mmengine")
    return scope if isinstance(scope, str) else None
