"""Weights that come with a package, in its folder ``weights``: a table, and a file of float16 for each of its rows.

The first digits of a file's SHA-256 are in its name. They are compared before the file is loaded.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ssm_core.errors import CheckpointError

FOLDER = "weights"  # in the folder of a package
INDEX = "index.json"
DIGITS = 8  # of the SHA-256, in the name of a file


class ShippedWeights(NamedTuple):
    """One row of the table.

    Attributes:
        name: timm's name of the model with its tag, ``<family>_<arch>.<data>``. A model that timm does not
            know has the name of its config.
        path: the file.
        config: the name of the config that they were trained with.
        figures: what ``tree-ssm test`` measured with the file.
        timm_cfg: the entries of timm's ``pretrained_cfg``; None for a model that timm does not know.
    """

    name: str
    path: Path
    config: str
    figures: Mapping[str, float]
    timm_cfg: Mapping[str, Any] | None

    def checked(self) -> Path:
        """Return the file, after its content was compared with the digits in its name.

        Raises:
            CheckpointError: the file is missing, cannot be read, or has another content.
        """
        said = self.path.stem.rpartition("-")[2]
        try:
            found = digits_of(self.path)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise CheckpointError(f"cannot read {self.path}: {reason}; install the package again") from error
        if found != said:
            raise CheckpointError(
                f"{self.path} is damaged: its SHA-256 begins with {found}, and its name says {said}; install the "
                "package again"
            )
        return self.path


def digits_of(path: Path) -> str:
    """Return the first digits of the SHA-256 of a file, which its name has."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]


def read_shipped(folder: Path) -> tuple[ShippedWeights, ...]:
    """Return the table of a package. It is empty if the folder has none, and if it is damaged, with a warning.

    Args:
        folder: the folder ``weights`` of the package.
    """
    index = folder / INDEX
    if not index.is_file():
        return ()
    try:
        rows = json.loads(index.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError("it is no list")
        return tuple(_row(folder, row) for row in rows)
    except (OSError, ValueError, RecursionError) as error:
        # The package is imported for much else, so that this may be no error.
        warnings.warn(f"{index} is damaged, so that no weights come with its package: {error}", stacklevel=2)
        return ()


def _row(folder: Path, row: object) -> ShippedWeights:
    """Check a row of the table. Raises ValueError."""
    if not isinstance(row, dict) or row.keys() != set(ShippedWeights._fields):
        raise ValueError(f"a row has not the entries {', '.join(ShippedWeights._fields)}")
    name, path, config, figures, timm_cfg = (row[field] for field in ShippedWeights._fields)
    if not all(isinstance(text, str) and text for text in (name, path, config)):
        raise ValueError("a name, a path or a config is no text")
    if Path(path).name != path:  # it names no other folder
        raise ValueError(f"{path} is no name of a file")
    if not isinstance(figures, dict) or not all(_is_number(value) for value in figures.values()):
        raise ValueError(f"the figures of {name} are no numbers")
    if timm_cfg is not None:
        size = timm_cfg.get("input_size") if isinstance(timm_cfg, dict) else None
        if not isinstance(size, list) or len(size) != 3 or not all(_is_number(side) and side >= 1 for side in size):
            raise ValueError(f"the input_size of {name} is no list of channels, height and width")
    return ShippedWeights(name, folder / path, config, figures, timm_cfg)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def write_shipped(folder: Path, rows: Iterable[ShippedWeights]) -> None:
    """Write the table that :func:`read_shipped` reads.

    Args:
        folder: the folder ``weights`` of the package.
        rows: the table. Their files are in the folder.
    """
    plain = [{**row._asdict(), "path": row.path.name} for row in sorted(rows, key=lambda row: row.name)]
    (folder / INDEX).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
