"""Writing files so that a reader never sees a part of one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Create or replace a file, all of it or nothing.

    A temporary file in the same folder is written, flushed to the disk and renamed. A process that is killed meanwhile
    leaves the old file as it was, and a temporary file that nothing reads (see :func:`remove_leftovers`).

    Args:
        path: the file. Missing folders are made.
        write: writes the content to the open file that it is called with.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_atomically(path: str | Path, text: str) -> None:
    """:func:`write_atomically` for text."""
    write_atomically(path, lambda file: file.write(text.encode()))


def remove_leftovers(folder: str | Path) -> None:
    """Delete the temporary files that killed processes left in a folder.

    No process may be writing to the folder at that time.
    """
    for path in Path(folder).glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
