"""What kept a file or folder from being written, in one sentence."""

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssm_core.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SIZED = (*_FULL, errno.EFBIG)  # the size of the file matters
REASONS = {
    errno.EDQUOT: "disk quota used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links lead in a circle",
    errno.EFBIG: "file too large for the disk or for the limit `ulimit -f`",
    errno.EIO: "the disk reports an error",
    errno.ESTALE: "the folder is lost (stale file handle)",
    errno.ENODEV: "the disk is gone",
    errno.ENXIO: "the disk is gone",
}
# These have reasons that depend on the place, see _why.
_PLACES = (errno.ENOSPC, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
# How libraries in Rust, such as safetensors, name an error of the system.
_RUST = re.compile(r"\(os error (\d+)\)|\bcode: (\d+)\b")


class WriteError(UserError):
    """A file or folder cannot be written.

    Args:
        message: the sentence.
        full: whether the disk, or what the user may have of it, is full.
        needed: size of the file in bytes, if it matters and is known.
    """

    def __init__(self, message: str, full: bool = False, needed: int | None = None):
        super().__init__(message)
        self.full = full
        self.needed = needed


def refusal(error: BaseException) -> OSError | None:
    """The error of the system, such as "disk full", that is or has caused an error; None if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and (seen.errno in REASONS or seen.errno in _PLACES):
            return seen
        if match := _RUST.search(str(seen)):
            number = int(match[1] or match[2])
            if number in REASONS or number in _PLACES:
                return OSError(number, os.strerror(number))
        seen = seen.__cause__ or seen.__context__
    return None


def is_of_the_disk(error: OSError) -> bool:
    """Whether an error is one of the disk and not of the path or the program."""
    return error.errno in (*_FULL, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


def write_error(
    error: OSError, path: str | Path, measure: Callable[[], int | None] | None = None, held: int = 0
) -> WriteError:
    """The error to raise for one of the system.

    Args:
        error: see :func:`refusal`.
        path: what could not be written.
        measure: gives the size of the file in bytes, or None.
        held: bytes of the disk that the attempt still has.
    """
    needed = measure() if measure and error.errno in _SIZED else None
    kept = "; the file that was there is kept" if os.path.isfile(path) else ""
    return WriteError(
        f"cannot write {path}: {_why(error, Path(path), needed, held)}{kept}", error.errno in _FULL, needed
    )


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Turn errors of the system into a :class:`WriteError`.

    Args:
        path: what is written. If an error names a file in it, that is named instead. An error that names a file
            elsewhere stays as it is.

    Raises:
        WriteError: the system refused to write.
    """
    try:
        yield
    except OSError as error:
        place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else os.fspath(path)
        if refusal(error) is not error or not related(place, os.fspath(path)):
            raise
        raise write_error(error, place) from error


def readable(size: float) -> str:
    """A number of bytes in units."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.4g} GB"


def existing(path: str | Path) -> Path:
    """The path itself, or else the nearest folder above it that exists."""
    try:
        path = Path(path).absolute()
    except FileNotFoundError:  # the current folder was deleted, and so nothing below it exists
        return Path()
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def related(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    """Whether one of two paths is the other, or above it."""
    a, b = os.path.realpath(a), os.path.realpath(b)
    return os.path.commonpath([a, b]) in (a, b)


def _why(error: OSError, path: Path, needed: int | None, held: int) -> str:
    number = error.errno or 0
    if number == errno.ENOSPC:
        return _disk_full(path, needed, held)
    if number in _PLACES:
        place = existing(path)
        if not place.is_absolute():
            return "the current folder was deleted"
        name = "it" if place == path.absolute() else place
        if not os.path.exists(place):
            return f"{name} is a broken link"
        if not os.path.isdir(place):
            return f"{name} is a file and no folder"
        return f"there is no folder {path.parent}"
    size = f": needed {readable(needed)}" if needed is not None else ""
    return f"{REASONS[number]}{size}"


def _disk_full(path: Path, needed: int | None, held: int) -> str:
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        return "disk full"  # a device
    try:
        disk = os.statvfs(existing(path))
    except OSError:
        return "disk full"
    free = disk.f_bavail * disk.f_frsize + held
    if disk.f_files and not disk.f_favail:
        return f"disk full: it takes no more files (inodes), with {readable(free)} free"
    if needed is None or needed <= free:
        return f"disk full: needed more than the {readable(free)} that it had"
    return f"disk full: needed {readable(needed)}, had {readable(free)}"
