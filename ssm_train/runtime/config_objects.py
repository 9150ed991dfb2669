"""Where the objects are that a config builds. Importing this is fast: it needs no other package."""

from collections.abc import Collection, Iterator
from typing import Any

from ssm_core.errors import ConfigError, nearest

# The registry of mmengine that builds an argument, by the name of the argument. The table names parts of models of some
# tasks, although the runtime knows no task, because it can neither be derived nor come from the tasks. A `type` alone
# does not tell its registry: mmengine finds the same name in several, builds `norm_cfg` with arguments that the class
# does not have, and looks up `nms` and `roi_layer` in no registry at all. A task is imported only after this check.
PARTS = {
    **dict.fromkeys(("backbone", "teacher", "data_preprocessor", "neck", "rpn_head", "roi_head"), "MODELS"),
    **dict.fromkeys(("bbox_roi_extractor", "bbox_head", "mask_roi_extractor", "mask_head"), "MODELS"),
    **dict.fromkeys(("decode_head", "auxiliary_head"), "MODELS"),
    **dict.fromkeys(("dataset", "datasets"), "DATASETS"),
    **dict.fromkeys(("transform", "pipeline"), "TRANSFORMS"),
    **dict.fromkeys(("tokenizer", "evaluate"), "TASK_UTILS"),
    **dict.fromkeys(("sampler", "batch_sampler"), "DATA_SAMPLERS"),
    "optimizer": "OPTIMIZERS",
}
# The types of top-level values that need not name theirs.
DEFAULT_TYPES = {"optim_wrapper": "ssm_train.GuardedOptimWrapper", "log_processor": "mmengine.LogProcessor"}
# By top-level key: the registry that builds its value, and what the value has besides the arguments of the class.
_PRIORITY: dict[str, Any] = {"priority": str | int}
BUILT: dict[str, tuple[str, dict[str, Any]]] = {
    "model": ("MODELS", {}),
    "optim_wrapper": ("OPTIM_WRAPPERS", {"optimizer": dict, "constructor": str, "paramwise_cfg": dict | None}),
    "param_scheduler": ("PARAM_SCHEDULERS", {"convert_to_iter_based": bool}),
    "default_hooks": ("HOOKS", _PRIORITY),
    "custom_hooks": ("HOOKS", _PRIORITY),
    "val_evaluator": ("METRICS", {}),
    "test_evaluator": ("METRICS", {}),
    "visualizer": ("VISUALIZERS", {}),
    "log_processor": ("LOG_PROCESSORS", {}),
}
# By top-level key: the loop of mmengine that a dictionary without a type builds; empty where `by_epoch` chooses it.
LOOPS = {"train_cfg": "", "val_cfg": "ValLoop", "test_cfg": "TestLoop"}
_ANYHOW = ("model", "visualizer", *DEFAULT_TYPES)  # are objects also without a type
ALWAYS = {"type", "_scope_"}  # keys of every object
# The beginnings of types and modules that docs/upgrading.md renames.
_FIRST_EDITION = ("ssm_core.", "tree_ssm.language.evaluation.")


def objects(place: str, node: Any) -> Iterator[tuple[str, dict]]:
    """The dicts under a key that can be built: its value, the items of a list, or the values of a plain dict.

    Args:
        place: keys that lead to the value from the top of the config.
        node: the value.
    """
    if isinstance(node, list | tuple):
        for number, item in enumerate(node):
            yield from objects(f"{place}.{number}", item)
    elif isinstance(node, dict) and ("type" in node or place in _ANYHOW):
        yield place, node
    elif isinstance(node, dict):
        for key, item in node.items():
            yield from objects(f"{place}.{key}", item)


def parts(place: str, node: dict) -> Iterator[tuple[str, dict, str]]:
    """The objects that are arguments of an object: their places, themselves and the names of their registries."""
    for key, registry in PARTS.items():
        for inner, item in objects(f"{place}.{key}", node.get(key)):
            yield inner, item, registry


def registry_at(place: list[str]) -> str:
    """The name of the registry that builds what is at a place, by the argument or else by the top-level key.

    Args:
        place: keys and indices that lead to it from the top of the config.
    """
    names = [part for part in place if not part.isdigit()]
    return PARTS.get(names[-1]) or BUILT.get(names[0], ("LOOPS", {}))[0]


def check_names(place: str, node: dict, allowed: Collection[str]) -> None:
    """Check the keys of a dictionary.

    Raises:
        ConfigError: one is not among those that are allowed; the message has the nearest.
    """
    for key in node:
        if key not in allowed:
            raise ConfigError(f"{place} has no argument {key!r}{nearest(key, allowed)}")


def unknown_type(kind: str, words: str, names: Collection[str]) -> str:
    """What is wrong with a type that is in no registry.

    Args:
        kind: the type.
        words: what the objects of the registry are called.
        names: the types in it.
    """
    return f"{kind!r} is no known {words}{renamed(kind) or nearest(kind, names)}"


def renamed(name: str) -> str:
    """A hint for an unknown type or module if the first edition had such names, and otherwise nothing."""
    if not name.startswith(_FIRST_EDITION):
        return ""
    return ", since names changed with the second edition: docs/upgrading.md has a command that rewrites configs"
