"""Reads single values of an annotation file, in the forms in which programs write them.

Spreadsheets and pandas write numbers as texts, whole numbers with a fraction of zero, lists as texts, and NaN or an
empty text where there is nothing.
"""

import ast
import json
import math
import sys
from typing import Any

Key = int | str

_NOTHING = ("", "none", "null", "nan", "na", "n/a")
_FLAGS = {"0": 0, "false": 0, "no": 0, "1": 1, "true": 1, "yes": 1}
_EXACT = 1 << 53  # whole numbers up to this size are exact in float64, in which NumPy compares mixed ids


def is_nothing(value: Any) -> bool:
    """Whether a value says that there is none: null, NaN, an empty text, or a text such as ``"None"``."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().lower() in _NOTHING


def number(value: Any) -> float | int | None:
    """A finite number, also from a text; None if the value is no number."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A whole number can be too large for a float.
    return value if abs(value) <= sys.float_info.max else None


def numbers(value: Any) -> list[float | int] | None:
    """A list of finite numbers, also from a text; None if the value is no such list."""
    value = structure(value)
    if not isinstance(value, list):
        return None
    found = [number(item) for item in value]
    return None if None in found else found  # type: ignore[return-value]


def whole(value: Any) -> int | None:
    """A whole number, also from a text and where it has a fraction of zero; None if the value is none."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def key(value: Any) -> Key | None:
    """What an id is compared by: 1, 1.0, ``"1"`` and ``"1.0"`` are the same. None if the value is no id."""
    if type(value) is int and abs(value) < _EXACT:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str) or is_nothing(value):
        return None
    found = whole(value)
    if found is not None and abs(found) < _EXACT:
        return found
    return value.strip() if isinstance(value, str) else str(value)


def flag(value: Any) -> int | None:
    """0 or 1, also from a truth value or a text; 0 where there is nothing; None if the value is something else."""
    if value is None or value is False or is_nothing(value):
        return 0
    found = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None
    found = number(value) if found is None and value is not True else found
    return 1 if value is True or found == 1 else 0 if found == 0 else None


def structure(value: Any) -> Any:
    """The list or dictionary that a text holds, as JSON or as Python prints it; any other value as it is."""
    if not isinstance(value, str) or not value.strip().startswith(("[", "{")):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return value
