"""Writing files so that a reader never sees a part of one."""

import errno
import io
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from ssm_core.writing import WriteError, existing, explained, refusal, related, write_error

_PROBE = 1 << 20  # bytes
_LEFTOVER = re.compile(r"\..*?\.?[0-9]+\.tmp", re.DOTALL)  # a temporary file or folder, with its process


class _Sink(io.BufferedIOBase):
    """Passes on what is written to a file, and keeps the error of the system, which libraries replace by their own.

    It has no descriptor. Libraries would write to that behind its back.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.file.seekable()

    def write(self, data: Any) -> int:
        return self._noting(self.file.write, data)

    def flush(self) -> None:
        self._noting(self.file.flush)

    def seek(self, *place: int) -> int:
        return self._noting(self.file.seek, *place)

    def tell(self) -> int:
        return self.file.tell()

    def truncate(self, size: int | None = None) -> int:
        return self._noting(self.file.truncate, size)

    def _noting(self, do: Callable, *arguments: Any) -> Any:
        try:
            return do(*arguments)
        except OSError as error:
            self.error = error
            raise


class _Scale(io.BufferedIOBase):
    """Counts the bytes that are written to it."""

    def __init__(self) -> None:
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        count = memoryview(data).nbytes
        self.size += count
        return count

    def tell(self) -> int:
        return self.size


def write_atomically(path: str | Path, write: Callable[[BinaryIO], Any], durable: bool = True) -> None:
    """Create or replace a file, all of it or nothing.

    A temporary file in the same folder is written, flushed to the disk and renamed. A process that is killed meanwhile
    leaves the old file as it was, and a temporary file that nothing reads (see :func:`remove_leftovers`). A device or a
    pipe is written to as it is.

    Args:
        path: the file. Missing folders are made.
        write: writes the content to the open file that it is called with. It is called again, to know the size, if the
            disk is full.
        durable: whether to wait until the disk has the file. A power cut could otherwise leave an empty one.

    Raises:
        WriteError: the file cannot be written. Nothing is left behind.
    """
    path = Path(path)
    temporary = _beside(path)
    special = _is_special(path)
    sink = None
    made: list[Path] = []
    try:
        made = _make(path.parent)
        with (path if special else temporary).open("wb") as file:
            sink = _Sink(file)
            write(cast(BinaryIO, sink))
            file.flush()
            if durable and not special:
                os.fsync(file.fileno())
        if not special:
            os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _unmake(made)
        cause = (sink and sink.error) or refusal(error)
        if cause is None or not isinstance(error, Exception):
            raise
        raise write_error(cause, path, lambda: _size_of(write)) from error
    if durable and not special:
        with explained(path.parent):
            _sync(path.parent)


def _beside(path: Path) -> Path:
    """A temporary name beside a file or folder, whose own name may be as long as the disk takes."""
    return path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:200])}.{os.getpid()}.tmp")


def append(path: str | Path, text: str) -> None:
    """Add text to a file, all of it or nothing.

    Raises:
        WriteError: the file cannot be written. It is as it was.
    """
    path = Path(path)
    with explained(path), path.open("ab", buffering=0) as file:
        before, content = file.tell(), text.encode()
        try:
            if file.write(content) < len(content):
                file.write(content[file.tell() - before :])  # raises the error that cut the first one
        except OSError:
            file.truncate(before)
            raise


def write_text_atomically(path: str | Path, text: str) -> None:
    """:func:`write_atomically` for text."""
    write_atomically(path, lambda file: file.write(text.encode()))


def _names_another(error: OSError, *folders: Path) -> bool:
    """Whether an error of the system names a file that is neither in these folders nor above them."""
    if not isinstance(error.filename, str | bytes):
        return False
    place = os.fsdecode(error.filename)
    return not any(related(place, folder) for folder in folders)


@contextmanager
def assembling(folder: str | Path, named: str | Path | None = None) -> Iterator[Path]:
    """Make the files of a folder in another one beside them, for libraries that write files themselves.

    When all are written, they are moved. A folder that is new gets its name with all of them in it, so that a process
    that is killed leaves all of them or none. In one that is there, a file of the same name is replaced, others stay.

    Args:
        folder: where the files go. It is made if it is missing.
        named: what an error names; the folder if left out.

    Yields:
        The folder to write to.

    Raises:
        WriteError: a file cannot be written. Nothing has been changed then, and nothing is left behind.
    """
    folder = Path(folder)
    is_new = not os.path.lexists(folder)
    temporary = _beside(folder) if is_new else folder / f".{os.getpid()}.tmp"
    made: list[Path] = []
    try:
        made = _make(temporary.parent)
        temporary.mkdir()
        yield temporary
        files = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
        for file in files:
            _sync(file)
        if not (is_new and _renamed(temporary, folder)):
            for file in files:
                place = folder / file.relative_to(temporary)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
    except Exception as error:
        # Many libraries do not say what the system said.
        cause = refusal(error)
        if cause is not None and _names_another(cause, temporary, folder):
            raise  # something that is missing or refused elsewhere, such as what is read
        cause = cause or _probe(temporary)
        needed = error.needed if isinstance(error, WriteError) else None
        explanation = cause and write_error(cause, named or folder, lambda: needed, _size_on_disk(temporary))
        shutil.rmtree(temporary, ignore_errors=True)
        _unmake(made)
        if explanation is None:
            raise
        raise explanation from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    with explained(folder):
        _sync(folder)
        _sync(folder.parent)


def _renamed(temporary: Path, folder: Path) -> bool:
    """Give a folder its name, unless another process has made one of that name meanwhile that is not empty."""
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def make_folder(folder: str | Path) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        WriteError: it cannot be made.
    """
    with explained(folder):
        _make(Path(folder))


def check_folder(folder: str | Path) -> None:
    """Check that a folder could be written to or made, before there is something to write.

    Raises:
        WriteError: the disk is read-only, the folder or one above is a file, or the user has no permission.
    """
    _check_name(folder)
    place = existing(folder)
    if not place.is_absolute():  # the current folder was deleted
        raise write_error(FileNotFoundError(errno.ENOENT, ""), folder)
    try:
        os.close(os.open(place, os.O_TMPFILE | os.O_WRONLY))
    except OSError as error:  # some disks have no O_TMPFILE and say so
        if (cause := refusal(error)) is not None:
            raise write_error(cause, folder) from error


def check_file(path: str | Path) -> None:
    """:func:`check_folder` for a file.

    Raises:
        WriteError: also if the path is a folder.
    """
    _check_name(path)
    if os.path.isdir(path):
        raise write_error(IsADirectoryError(errno.EISDIR, ""), path)
    if not _is_special(path):
        check_folder(Path(path).parent)


def _check_name(path: str | Path) -> None:
    """Raise a :class:`WriteError` if a name is too long, or its links lead in a circle."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise write_error(error, path) from error


def set_aside(path: Path) -> Path:
    """Give something damaged another name, ``NAME.damaged`` with a number if need be, and return its new path."""
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in itertools.count())
    kept = next(name for name in names if not os.path.lexists(name))
    return path.rename(kept)


def remove_file(path: Path) -> None:
    """Delete a file if it is there. A folder of its name stays."""
    with suppress(FileNotFoundError, IsADirectoryError):
        path.unlink()


def remove_leftovers(folder: str | Path) -> None:
    """Delete the temporary files that killed processes left in a folder.

    No process may be writing to the folder at that time.
    """
    for path in Path(folder).glob(".*.tmp"):
        if not _LEFTOVER.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_special(path: str | Path) -> bool:
    """Whether a path is a device or a pipe."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _make(folder: Path) -> list[Path]:
    """Make a folder, and return those that were made, from the lowest on."""
    missing = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _unmake(folders: list[Path]) -> None:
    """Remove folders that are empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _size_of(write: Callable[[BinaryIO], Any]) -> int | None:
    scale = _Scale()
    try:
        write(cast(BinaryIO, scale))
    except Exception:  # a library may want more of a file than to write; the caller raises the error of the disk
        return None
    return scale.size


def _size_on_disk(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def _probe(folder: Path) -> OSError | None:
    """What the system says when the largest file of a folder grows."""
    try:
        files = [path for path in folder.rglob("*") if path.is_file()]
        largest = max(files, key=lambda path: path.stat().st_size, default=folder / "probe")
        with largest.open("ab") as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return refusal(error)
    return None


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
