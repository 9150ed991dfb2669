"""JSON that every reader takes."""

import json
import math
from typing import Any


def strict_json(content: Any, indent: int | None = None) -> str:
    """Write plain data as JSON. JSON has no NaN and no infinity: such a figure is null.

    Args:
        content: dictionaries, lists, texts, numbers, truth values and None.
        indent: see :func:`json.dumps`.
    """
    return json.dumps(_without_nan(content), indent=indent, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
