"""From the labels that shards and tables hold, numbers or names, to the numbers of classes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ssm_core.errors import DataError, nearest
from ssm_train.data.classes import check_classes
from ssm_train.data.faults import Unusable

MOST_CLASSES = 2**16  # more are no classes, but for example the numbers of people


class Numbered(NamedTuple):
    """Labels as numbers.

    Attributes:
        labels: for every image the number of its class, the numbers of its classes, or what is wrong with its label.
        classes: names of the classes.
    """

    labels: list[int | list[int] | Unusable]
    classes: list[str]


def number_labels(values: Sequence[Any], classes: Sequence[str] | None, multi_label: bool, place: str) -> Numbered:
    """Number the labels of images.

    A whole number is the number of a class. A text is the name of one, also if it is a text of digits. A truth value is
    the name ``false`` or ``true``. Null, NaN and -1, with which datasets mark images without a label, are none.

    Args:
        values: the label of every image; a list of labels if ``multi_label`` is set. A :class:`Unusable` stays.
        classes: names of the classes in the order of their numbers. By default these are the names in the labels,
            sorted, or the numbers up to the largest one.
        multi_label: whether an image can have several classes or none.
        place: where the labels are from, for messages.

    Raises:
        ConfigError: ``classes`` are no names, or name a class twice.
        DataError: some labels are numbers and others names, and ``classes`` is not given.
    """
    read = [_read(value, multi_label) for value in values]
    found = {label for own in read if isinstance(own, list) for label in own}
    if classes is not None:
        classes = check_classes(classes)
    else:
        names = sorted(label for label in found if isinstance(label, str))
        numbers = [label for label in found if isinstance(label, int)]
        if names and numbers:
            raise DataError(
                f"{place} has labels that are names, such as {names[0]!r}, and labels that are numbers, such as "
                f"{numbers[0]}: give the names of the classes in their order by classes=[...]"
            )
        classes = names or [str(number) for number in range(max(numbers, default=-1) + 1)]
    number_of: dict[int | str, int] = {name: number for number, name in enumerate(classes)}
    number_of |= {number: number for number in range(len(classes))}
    return Numbered([_number(own, number_of, list(classes), multi_label) for own in read], list(classes))


def _read(value: Any, multi_label: bool) -> list[int | str] | Unusable:
    try:
        if isinstance(value, Unusable):
            raise value
        if not multi_label:
            return [_single(value)]
        if not isinstance(value, list | tuple):
            raise Unusable("has no label" if value is None else "has one label and no list of them")
        return [_single(one) for one in value]
    except Unusable as fault:
        return fault


def _single(value: Any) -> int | str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # tables with empty cells have no integers
        value = int(value)
    if value is None or value == -1 or (isinstance(value, float) and math.isnan(value)):
        raise Unusable("has no label")
    if isinstance(value, int):
        if not 0 <= value < MOST_CLASSES:
            raise Unusable(f"has a label outside of 0 to {MOST_CLASSES - 1}", str(value)[:40])
        return value
    if not isinstance(value, str):
        raise Unusable("has a label that is neither a number nor a name", type(value).__name__)
    if not value.strip():
        raise Unusable("has no label")
    return value.strip()


def _number(
    own: list[int | str] | Unusable, number_of: dict[int | str, int], classes: list[str], multi_label: bool
) -> int | list[int] | Unusable:
    if isinstance(own, Unusable):
        return own
    for label in own:
        if label not in number_of:
            near = nearest(label, classes) if isinstance(label, str) else ""
            return Unusable(f"has a label that is none of the {len(classes)} classes", f"{label!r:.60}{near}")
    numbers = sorted({number_of[label] for label in own})
    return numbers if multi_label else numbers[0]
