"""Datasets of Hugging Face: by their name on the Hub, or in a local folder.

The package datasets reads them. Since its version 4 it runs no code of a dataset. Tables are mapped into memory from
the disk, so that a dataset may be larger than the memory.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ssm_core.errors import ConfigError, DataError, MissingPackageError
from ssm_train.data.json_rows import JsonRow

_OLDEST = 4  # version of datasets
_STATES = ("dataset_dict.json", "state.json")  # what save_to_disk leaves in a folder
_AT_ONCE = 256  # rows that are read at a time
_WORDS = 300  # characters of an error


def load_table(path: str, split: str = "train", subset: str | None = None, revision: str | None = None) -> Any:
    """Load a split of a dataset.

    Args:
        path: a folder, from ``save_to_disk`` or with files that ``load_dataset`` reads (Parquet, Arrow, CSV, JSON,
            image folders); or the name of a dataset on the Hub. If the first part of a name is a folder here, it is no
            name.
        split: name of the split, or a part of it such as ``"train[:80%]"``. A table that was saved without the name of
            its split is ``"train"``, or has the name of its folder in a folder of several splits.
        subset: name of a configuration of the dataset, if it has several.
        revision: a branch, a tag or a commit on the Hub. A commit names its content for good.

    Returns:
        A ``datasets.Dataset``.

    Raises:
        MissingPackageError: the package datasets is not installed, or is too old.
        DataError: there is no such dataset or split, it is damaged or has no rows, or it needs code of its own.
        ConfigError: ``subset`` or ``revision`` is given for a folder from ``save_to_disk``.
    """
    folder = Path(path)
    first = folder.parts[0] if folder.parts else ""
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or len(folder.parts) > 2):
        raise DataError(f"there is no folder {path}, and it is no name of a dataset on the Hub")
    if not folder.is_dir() and len(folder.parts) == 2 and Path(first).is_dir():
        raise DataError(f"there is no folder {path}; it is not looked for on the Hub, since {first} is a folder here")
    try:
        import datasets
    except ImportError:
        raise MissingPackageError("datasets", f"the dataset {path}") from None
    if int(datasets.__version__.split(".")[0]) < _OLDEST:
        raise MissingPackageError(f"datasets of version {_OLDEST} or newer", f"the dataset {path}", "huggingface")
    on_disk = any((folder / name).is_file() for name in _STATES)
    if on_disk and (subset or revision):
        raise ConfigError(f"{path} is a folder of save_to_disk, which has no subset and no revision")
    try:
        found = (
            _from_disk(folder, split)
            if on_disk
            else datasets.load_dataset(path, subset, split=split, revision=revision)
        )
        if not len(found):
            raise ValueError(f"{split!r} has no rows")
        # Otherwise a damaged file of Arrow would lead out of the memory that it is in, and end the process.
        found.data.validate(full=True)
    except Exception as error:  # the package and those below it have errors of many kinds
        raise DataError(f"cannot load the dataset {path}: {_words(error)}") from error
    return found


def _from_disk(folder: Path, split: str) -> Any:
    """A split of what save_to_disk wrote, or a part of one. Only load_dataset takes parts from a name by itself."""
    import datasets

    for state in (folder / "state.json", *folder.glob("*/state.json")):  # the package cannot load a table without files
        if state.is_file() and json.loads(state.read_text(encoding="utf-8")).get("_data_files") == []:
            raise ValueError(f"the table in {state.parent} has no rows")
    found = datasets.load_from_disk(str(folder))
    usual = folder.name if (folder.parent / _STATES[0]).is_file() else "train"
    tables = found if isinstance(found, datasets.DatasetDict) else {str(found.split or usual): found}
    if split in tables:
        return tables[split]
    sizes = {name: len(table) for name, table in tables.items()}
    name = split.partition("[")[0]
    if name not in sizes:
        having = "is the split" if len(sizes) == 1 else "has the splits"
        raise ValueError(f"it {having} {', '.join(map(repr, sizes))}, and not {name!r}")
    parts = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
    return datasets.concatenate_datasets([tables[part.splitname].select(range(part.from_, part.to)) for part in parts])


def table_rows(table: Any) -> Iterator[JsonRow]:
    """The rows of a table, as those of a file of JSON. They have no lines.

    Args:
        table: what :func:`load_table` returned.

    Raises:
        DataError: the table cannot be read.
    """
    plain = table.with_format("arrow")  # pictures and sounds beside the texts are not decoded
    for start in range(0, len(table), _AT_ONCE):
        try:
            rows = plain[start : start + _AT_ONCE].to_pylist()
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"cannot read the rows from {start} on of {_place(table)}: {_words(error)}") from error
        for number, row in enumerate(rows, start):
            yield JsonRow(number, 0, row)


def files_of(table: Any) -> list[str]:
    """The files that a table is mapped from; none for one in memory."""
    return [file["filename"] for file in table.cache_files]


def column_of(table: Any, name: str | None, kinds: Sequence[str], usual: Sequence[str], what: str) -> str:
    """The name of a column.

    Args:
        table: what :func:`load_table` returned.
        name: the name in the config; None to find it.
        kinds: types of the package datasets. A column is found if it alone has one of them.
        usual: names of columns of other types that are found, the first first.
        what: what the config calls the column.

    Raises:
        ConfigError: there is no such column, or it is not found.
    """
    kind_of = {column: type(feature).__name__ for column, feature in table.features.items()}
    if name is None:
        found = [column for column, kind in kind_of.items() if kind in kinds]
        found = found if len(found) == 1 else [column for column in usual if column in kind_of][:1]
        if found:
            return found[0]
    elif name in kind_of:
        return name
    listed = ", ".join(f"{column} ({kind})" for column, kind in kind_of.items())
    words = f"there is no column {name!r}" if name else f"it is not clear which column is the {what}: name it by {what}"
    raise ConfigError(f"{words}; {_place(table)} has {listed[:_WORDS]}")


def _place(table: Any) -> str:
    return os.path.dirname(table.cache_files[0]["filename"]) if table.cache_files else "the dataset"


def _words(error: BaseException) -> str:
    """What an error says, on one line. The package hides the reason behind an error of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (" ".join(str(error).split()) or type(error).__name__)[:_WORDS]
