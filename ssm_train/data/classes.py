"""Which classes the samples of a dataset have, without loading them, and how these are numbered."""

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.logging import MMLogger

from ssm_core.errors import ConfigError

_LISTED = 10  # names of a list in a message


def classes_of(dataset: Any, index: int) -> list[int]:
    """Numbers of the classes of a sample, each once, in ascending order.

    Args:
        dataset: a dataset of labelled images or of mmdet's instances, also in mmengine's wrappers.
        index: index of the sample.

    Raises:
        ConfigError: the dataset does not know the classes of a sample without loading it.
    """
    info = dataset.get_data_info(index) if hasattr(dataset, "get_data_info") else {}
    if "label" in info:
        label = info["label"]
        return sorted(set(label)) if isinstance(label, list) else [label]
    if "instances" in info:
        return sorted({instance["bbox_label"] for instance in info["instances"] if not instance.get("ignore_flag")})
    raise ConfigError(f"{type(dataset).__name__} does not say which classes an image has, and they cannot be counted")


def class_counts(dataset: Any) -> list[int]:
    """Number of the samples of every class.

    Args:
        dataset: see :func:`classes_of`.

    Raises:
        ConfigError: see :func:`classes_of`.
    """
    numbers = Counter(label for index in range(len(dataset)) for label in classes_of(dataset, index))
    return [numbers[label] for label in range(len(dataset.metainfo["classes"]))]


def are_weights(values: Sequence[Any], classes: int) -> bool:
    """Whether values are weights of classes: a finite number from 0 on for each, and a finite sum.

    Args:
        values: what is given as weights.
        classes: number of the classes.
    """
    numbers = len(values) == classes and all(
        isinstance(value, int | float) and 0 <= value <= sys.float_info.max for value in values
    )
    return numbers and math.isfinite(sum(map(float, values)))


def renumber(dataset: Any, classes: Sequence[str], number: Callable[[Any, Sequence[str]], None]) -> None:
    """Number the classes of a dataset in another order, also where mmengine's wrappers or ours are around it.

    Args:
        dataset: the dataset.
        classes: its classes, in the order of their new numbers.
        number: numbers the classes of a dataset without wrappers.
    """
    inner = _wrapped(dataset)
    for part in inner:
        renumber(part, classes, number)
    if not inner:
        if list(dataset.metainfo["classes"]) != list(classes):  # a dataset can be there twice
            number(dataset, classes)
    elif "_metainfo" in vars(dataset):
        dataset._metainfo = {**dataset._metainfo, **inner[0].metainfo}


def number_alike(dataset: Any, number: Callable[[Any, Sequence[str]], None], words: str) -> None:
    """Number the classes of joined datasets as the first of them does. They are compared by name.

    Args:
        dataset: the dataset. If it is none that joins others, its classes are only checked.
        number: see :func:`renumber`.
        words: what the data are called in a message, such as ``"the training data"``.

    Raises:
        ConfigError: two of the datasets have different classes, or one names a class twice.
    """
    first, *others = (check_classes(part.metainfo["classes"]) for part in parts_of(dataset))
    for place, own in enumerate(others, 2):
        if differ(own, first):
            raise ConfigError(
                f"{words} are joined of datasets, of which number {place} has the classes {listed(own)} and the first "
                f"has {listed(first)}: they must be the same{differing(own, first)}"
            )
    turned = [f"number {place} ({listed(own)})" for place, own in enumerate(others, 2) if own != first]
    if turned:
        renumber(dataset, first, number)
        MMLogger.get_current_instance().warning(
            f"{words} are joined of datasets with the same classes in another order, and are numbered like the first "
            f"({listed(first)}): {'; '.join(turned)}"
        )


def parts_of(dataset: Any) -> list[Any]:
    """The datasets that mmengine's wrappers and ours are around, or the dataset itself."""
    return [part for inner in _wrapped(dataset) for part in parts_of(inner)] or [dataset]


def _wrapped(dataset: Any) -> list[Any]:
    return [dataset.dataset] if "dataset" in vars(dataset) else list(vars(dataset).get("datasets", []))


def check_classes(classes: Any) -> list[str]:
    """Check the names of a dataset's classes, and return them as a list.

    Raises:
        ConfigError: they are no list of names, or name a class twice.
    """
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(
            f"a dataset's classes are a list of names between quotes, such as ['cat', 'dog'], not {classes!r:.100}"
        )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise ConfigError(f"a dataset's classes name {', '.join(twice)[:100]} twice: name every class once")
    return list(classes)


def differ(own: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether two lists of classes are not the same set, or name a class twice in different orders."""
    return sorted(own) != sorted(expected) or (list(own) != list(expected) and len(set(own)) < len(own))


def listed(names: Sequence[str]) -> str:
    """Names of classes for a message."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def differing(own: Sequence[str], expected: Sequence[str]) -> str:
    """The classes that only one of two long lists has, in words."""
    if max(len(own), len(expected)) <= _LISTED:
        return ""
    lists = [[n for n in own if n not in set(expected)], [n for n in expected if n not in set(own)]]
    return f" (only the first: {listed(lists[0]) or 'none'}; only the second: {listed(lists[1]) or 'none'})"
