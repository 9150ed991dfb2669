"""The file with the learning curves of a run."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssm_core.errors import DataError

CURVES, CURVES_PICTURE = "curves.json", "curves.png"  # in the work folder of the run


def read_curves(run: str | Path) -> dict[str, list[dict]]:
    """Read the curves of a run.

    Args:
        run: the work folder of the run, or a ``curves.json``.

    Returns:
        The points of ``"train"`` and of ``"val"``, see :class:`.CurvesHook`. A figure that is null is NaN.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = Path(run)
    path = path / CURVES if path.is_dir() else path
    if not path.is_file():  # reading a device might never end
        raise DataError(f"there is no {path}: a run of tree-ssm train writes it into its work folder")
    try:
        curves = json.loads(path.read_text())
        curves = {part: [_with_nan(point) for point in curves[part]] for part in ("train", "val")}
        points = [point for part in curves.values() for point in part]
        sound = all(type(point["iter"]) is int and type(point["epoch"]) is int for point in points)
        sound = sound and all(_is_number(value) for point in points for value in point.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"cannot read the curves {path}: {' '.join(str(error).split())}") from error
    if not sound:
        raise DataError(
            f"the curves {path} have points without iter or epoch or with other things than numbers, unlike those that "
            "tree-ssm train writes"
        )
    return curves


def _with_nan(point: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in point.items()}


def _is_number(value: Any) -> bool:
    # Larger integers cannot be drawn.
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)
