"""The file of figures that a benchmark writes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssm_train.runtime.files import write_text_atomically

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def write_report(path: Path | None, conditions: Mapping[str, Any], rows: Sequence["DataclassInstance"]) -> None:
    """Write the figures with the conditions under which they were measured; nothing without a path.

    Args:
        path: of the file.
        conditions: such as the machine and the settings.
        rows: the figures.
    """
    if path is not None:
        write_text_atomically(path, json.dumps({**conditions, "rows": [asdict(row) for row in rows]}, indent=2))
