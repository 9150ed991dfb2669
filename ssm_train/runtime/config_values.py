"""Checking the values in a config: their kinds by the annotations of the classes that it names, and their ranges.

A class is asked before it is built, so that a wrong value costs a second and is named by its place in the config.
Neither mmengine nor torch checks more than a few of their arguments. A text for a number would be a TypeError in the
middle of an epoch.
"""

import inspect
import math
import numbers
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ssm_core.errors import ConfigError, nearest

# Packages whose annotations say what their arguments are.
_EXACT = {"ssm_core", "quadtree_ssm", "tree_ssm", "ssm_train", "mmengine", "torch"}
# Packages with annotations that are narrower than what the code takes, except that a text is never meant for a number.
_ROUGH = {"mmcv", "mmdet", "mmseg"}
_LISTS = (list, tuple, set, Sequence, Collection, Iterable)
_WORDS: dict[Any, str] = {
    bool: "True or False", int: "a whole number", float: "a number", str: "a text", type(None): "None",
}  # fmt: skip
_OBJECT = "a dictionary with a type"
_LARGEST = 2**63 - 1  # whole numbers of torch, NumPy and the operating system have 64 bits
_WHOLE_FLOATS = {"max_epochs", "max_iters"}  # mmengine's loops take 1e5 for 100000
_LONGEST = 100  # characters of a value in a message


class Range(NamedTuple):
    """Numbers that an argument may have.

    Attributes:
        low: the lowest.
        high: the highest. By default the infinity is left out.
        above: whether ``low`` is left out, too.
    """

    low: float
    high: float = sys.float_info.max
    above: bool = False

    def has(self, number: float) -> bool:
        """Whether a number is in the range. NaN is in none."""
        return self.low <= number <= self.high and not (self.above and number == self.low)

    def __str__(self) -> str:
        if self == _ANY_NUMBER:
            return "a number"
        if self.high < sys.float_info.max:
            return f"{'above' if self.above else 'from'} {self.low} to {self.high}"
        return f"above {self.low}" if self.above else f"{self.low} or more"


_FROM_ONE, _FROM_ZERO, _ABOVE_ZERO, _SHARE = Range(1), Range(0), Range(0, above=True), Range(0, 1)
_ANY_NUMBER = Range(-math.inf, math.inf)
_SIDE = Range(1, 1 << 16)  # pixels: a longer side is a mistyped number
# The ranges of arguments that their classes do not check, by the argument's name, or by the class's and that.
RANGES: dict[str, Range] = {
    **dict.fromkeys(("batch_size", "num_batch_per_epoch", "prefetch_factor", "accumulative_counts"), _FROM_ONE),
    **dict.fromkeys(("max_epochs", "max_iters", "val_interval", "base_batch_size", "topk"), _FROM_ONE),
    **dict.fromkeys(("interval", "Harness.limit"), _FROM_ONE),
    **dict.fromkeys(("num_workers", "timeout", "val_begin", "begin", "save_begin", "count"), _FROM_ZERO),
    **dict.fromkeys(("CheckpointHook.interval", "max_keep_ckpts"), Range(-1)),
    "seed": Range(0, 2**32 - 1),
    **dict.fromkeys(("lr", "weight_decay", "mixup_alpha", "cutmix_alpha", "eta_min"), _FROM_ZERO),
    **dict.fromkeys(("lr_mult", "decay_mult"), _FROM_ZERO),
    **dict.fromkeys(("process_timeout", "layer_decay"), _ABOVE_ZERO),
    **dict.fromkeys(("max_norm", "norm_type"), Range(0, math.inf, above=True)),
    **dict.fromkeys(("hflip", "random_erasing", "label_smoothing", "mix_prob", "eta_min_ratio"), _SHARE),
    **dict.fromkeys(("Digits.size", "TrainTransform.size", "TestTransform.size"), _SIDE),
    **dict.fromkeys(("Resize.scale", "RandomResize.scale"), _SIDE),
    **dict.fromkeys(("crop_ratio", "TrainTransform.scale"), Range(0, 1, above=True)),
    **dict.fromkeys(("TrainTransform.ratio", "std"), _ABOVE_ZERO),
}  # fmt: skip


def check_arguments(place: str, node: Mapping[str, Any], target: Callable) -> None:
    """Check the arguments that a config has for a class or a function.

    Args:
        place: keys that lead to the arguments, as a message names them.
        node: the arguments. Those that the target does not have are left out of the check.
        target: the class or function.

    Raises:
        ConfigError: a value is of the wrong kind or out of range.
    """
    hints, exact = annotations_of(target), is_exact(target)
    names = [cls.__name__ for cls in target.__mro__] if inspect.isclass(target) else []
    for key, value in node.items():
        if key in _WHOLE_FLOATS and isinstance(value, float) and value.is_integer():
            value = int(value)
        rules = (*(f"{name}.{key}" for name in names), key)
        allowed = next((RANGES[rule] for rule in rules if rule in RANGES), None)
        hint = hints.get(key, Any) if exact or isinstance(value, str) else Any
        check_value(f"{place}.{key}" if place else key, value, hint, allowed)


def check_keys(place: str, node: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Check a dictionary whose keys are all known.

    Args:
        place: keys that lead to the dictionary.
        node: the dictionary.
        hints: annotation of each key.

    Raises:
        ConfigError: a key is unknown, or a value is of the wrong kind or out of range.
    """
    for key, value in node.items():
        if key not in hints:
            raise ConfigError(f"{place} has no argument {key!r}{nearest(str(key), hints)}")
        check_value(f"{place}.{key}", value, hints[key], RANGES.get(key))


def check_value(place: str, value: Any, hint: Any, allowed: Range | None = None) -> None:
    """Check one value.

    Args:
        place: keys that lead to the value.
        value: what the config has.
        hint: annotation of what it should be; ``Any`` if nothing is known.
        allowed: range of the number, or of every number in the list.

    Raises:
        ConfigError: the value is of the wrong kind or out of range.
    """
    if isinstance(value, str) and (lacking := _notation(hint, value)):
        raise ConfigError(f"{place} is {shown(value)}: it has to be {lacking}")
    if not matches(value, hint):
        meant = nearest(value, _choices(hint)) if isinstance(value, str) else ""
        raise ConfigError(f"{place} has to be {describe(hint)}, not {shown(value)}{meant}")
    for item in value if isinstance(value, list | tuple) else (value,):
        if not _is_number(item):
            continue
        if allowed is not None and not allowed.has(item):
            raise ConfigError(f"{place} has to be {allowed}, not {shown(value)}")
        if isinstance(item, int) and abs(item) > _LARGEST:
            raise ConfigError(f"{place} is too large a number: {shown(value)}")
        if allowed is None and not math.isfinite(item):
            raise ConfigError(f"{place} has to be a finite number, not {shown(value)}")
    if isinstance(value, Mapping) and (keys := _typed_dict(hint)):
        check_keys(place, value, keys)
    elif isinstance(value, Mapping) and typing.get_origin(hint) is dict:
        for key, item in value.items():
            check_value(f"{place}.{key}", item, typing.get_args(hint)[1])


class Notation(Protocol):
    """What a text has to be, as in ``Annotated[str, SomeNotation()]``."""

    def lacking(self, text: str) -> str:
        """Words for what a text would have to be; empty if it is that."""
        ...


def _notation(hint: Any, value: str) -> str:
    """What a text lacks by the notation in an annotation; empty if there is none, or it lacks nothing."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is not typing.Annotated:
        return next(filter(None, (_notation(part, value) for part in parts)), "")
    return next(filter(None, (note.lacking(value) for note in parts[1:] if hasattr(note, "lacking"))), "")


def _choices(hint: Any) -> list[str]:
    """The texts among which an annotation lets one choose."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return [part for part in parts if isinstance(part, str)]
    return [choice for part in parts for choice in _choices(part)]


def check_change(place: str, before: Any, after: Any, hint: Any = Any) -> None:
    """Check that a value on a command line is of the kind of the value that it replaces.

    This is for arguments that nothing certain is known of. A config file may change their kinds.

    Args:
        place: keys that lead to the value.
        before: the value of the config.
        after: the new value.
        hint: annotation of the argument that may be too narrow. A value that it allows passes.

    Raises:
        ConfigError: the kinds differ, and neither value is None.
    """
    known = hint is not Any and matches(after, hint)
    if known or before is None or (after is None and not _is_number(before)):
        return
    for kind in (bool, str, float, list, Mapping):
        if matches(before, kind):
            if not matches(after, kind):
                example = "" if kind is bool else f" like {shown(before)}"
                raise ConfigError(f"{place} has to be {describe(kind)}{example}, not {shown(after)}")
            return


def check_everywhere(place: str, node: Any) -> None:
    """Check what holds for every part of a config, whatever it is for: types are names or classes, no number is NaN.

    Args:
        place: keys that lead to the part.
        node: the part.

    Raises:
        ConfigError: it does not hold.
    """
    if isinstance(node, Mapping):
        kind = node.get("type", "")
        if not (isinstance(kind, str) or callable(kind)):
            raise ConfigError(f"{place}.type has to be the name of a class, not {shown(kind)}")
        if not isinstance(scope := node.get("_scope_", ""), str):
            raise ConfigError(f"{place}._scope_ has to be the name of a package, not {shown(scope)}")
    elif _is_number(node):
        check_value(place, node, Any, _ANY_NUMBER)
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, value in items:
        check_everywhere(f"{place}.{key}", value)


def _typed_dict(hint: Any) -> dict[str, Any] | None:
    """The annotations of a TypedDict's keys, also of one that may be None; None for anything else."""
    either = typing.get_origin(hint) in (typing.Union, types.UnionType)
    for kind in typing.get_args(hint) if either else (hint,):
        if typing.is_typeddict(kind):
            return typing.get_type_hints(kind)
    return None


@cache
def annotations_of(target: Callable) -> dict[str, Any]:
    """The annotations of a class's or a function's arguments, with those that a class passes on to its bases.

    An argument is left out, or has the annotation ``Any``, if nothing certain is known of it.
    """
    if _package_of(target) not in _EXACT | _ROUGH:
        return {}
    functions = [target]
    if inspect.isclass(target):
        functions = [vars(cls)["__init__"] for cls in reversed(target.__mro__[:-1]) if "__init__" in vars(cls)]
    known: dict[str, Any] = {}
    for function in functions:
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            hint = _resolved(parameter.annotation, function)
            known[name] = typing.Optional[hint] if parameter.default is None else hint  # noqa: UP045
    return known


def is_exact(target: Callable) -> bool:
    """Whether the annotations of a class or function say all that its arguments may be."""
    return _package_of(target) in _EXACT


def _package_of(target: Callable) -> str:
    return str(getattr(target, "__module__", "")).partition(".")[0]


def _resolved(annotation: Any, function: Callable) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"value": annotation})
    try:
        return typing.get_type_hints(holder, getattr(function, "__globals__", {}), include_extras=True)["value"]
    except (NameError, TypeError):  # a name that only type checkers import, or something that is no annotation
        return Any


def matches(value: Any, hint: Any) -> bool:
    """Whether a value of a config can be what an annotation says.

    Lists and tuples stand for each other. A dict stands for any object that is built of it. A whole number is a number,
    and True and False are none.
    """
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is typing.Annotated:
        return matches(value, parts[0])
    if kind in (typing.Union, types.UnionType):
        return any(matches(value, part) for part in parts)
    if kind is typing.Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if kind in (Any, object) or not inspect.isclass(kind):
        return True
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float or issubclass(kind, numbers.Number):
        return _is_number(value)
    if issubclass(kind, Path):
        return isinstance(value, str | Path)
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if kind in _LISTS:
        return isinstance(value, list | tuple) and _items_match(value, kind, parts)
    return value is not None and not isinstance(value, bool | int | float | str | list | tuple)


def _items_match(items: Sequence, kind: type, parts: tuple) -> bool:
    if kind is tuple and parts and parts[-1] is not Ellipsis:
        return len(items) == len(parts) and all(map(matches, items, parts))
    return not parts or all(matches(item, parts[0]) for item in items)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def describe(hint: Any) -> str:
    """An annotation in words."""
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is typing.Annotated:
        return describe(parts[0])
    if kind in (typing.Union, types.UnionType):
        words = [describe(part) for part in parts]
        plain = [word for word in words if word != _OBJECT]
        return _either(plain if any(word != _WORDS[type(None)] for word in plain) else words)
    if kind is typing.Literal:
        return _either([repr(part) for part in parts])
    if kind in _WORDS:
        return _WORDS[kind]
    if inspect.isclass(kind) and issubclass(kind, numbers.Number):
        return _WORDS[float]
    if kind in _LISTS:
        if kind is tuple and parts and parts[-1] is not Ellipsis:
            return f"a list of {len(parts)} ({', '.join(map(describe, parts))})"
        return f"a list ({describe(parts[0])} each)" if parts and parts[0] is not Any else "a list"
    if inspect.isclass(kind) and issubclass(kind, Path | Mapping):
        return _WORDS[str] if issubclass(kind, Path) else "a dictionary"
    return _OBJECT


def _either(words: Sequence[str]) -> str:
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


def shown(value: Any) -> str:
    """A value on one line of bearable length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
