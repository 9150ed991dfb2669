"""A lock that keeps a second run out of a folder."""

import fcntl
import functools
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from mmengine.logging import MMLogger

from ssm_core.errors import ConfigError
from ssm_core.writing import explained
from ssm_train.runtime.occupants import LOCK

FILE = LOCK
_held: set[int] = set()  # file descriptors


class LockedError(ConfigError):
    """Another process has locked a folder."""


def acquire(folder: Path, patience: float = 0.0, *, also_here: bool = False) -> int:
    """Lock a folder for this process.

    The lock is ``flock`` on a file in the folder. The kernel releases it when the process ends, however it ends. Linux
    passes it on to the servers of NFS, which release it some time after a machine has died. Processes that this one
    forks do not hold it.

    Args:
        folder: an existing folder.
        patience: seconds to wait for a process of another machine, which may have died.
        also_here: whether to wait for a process of this machine, too, which may be about to end.

    Returns:
        What :func:`release` takes.

    Raises:
        LockedError: another process has locked the folder.
        WriteError: the file cannot be written.
    """
    path, end, told = folder / FILE, time.monotonic() + patience, False
    unlocked = f"the file system of {folder} has no locks: take care that no other run uses the folder"
    while (descriptor := attempt(path, unlocked)) is None:
        host, process = holder(path)
        if (host == socket.gethostname() and not also_here) or time.monotonic() > end:
            raise LockedError(
                f"another run is going on in {folder} (host {host}, pid {process}): wait for its end or stop it, "
                f"or name another --work-dir (if that host has died, delete {path})"
            )
        if not told:
            MMLogger.get_current_instance().warning(f"waiting for the run in {folder} on {host}, pid {process}")
        told = True
        time.sleep(1)
    return descriptor


def attempt(path: Path, unlocked: str) -> int | None:
    """Lock a file for this process, as :func:`acquire` does, unless another process has it locked.

    Args:
        path: the file. It is made if it is missing.
        unlocked: the warning where the file system has no locks. The file then counts as locked by this process.

    Returns:
        What :func:`release` takes; None if another process has locked the file.

    Raises:
        WriteError: the file cannot be written.
    """
    _forget_when_forked()
    while True:
        with explained(path):
            if path.is_symlink():  # a file elsewhere, which would be written to
                path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            MMLogger.get_current_instance().warning(unlocked)
        if _names(path, descriptor):
            _held.add(descriptor)
            with suppress(OSError):  # a full disk; it is only to be told to others
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # the file was deleted after it was opened


def release(descriptor: int) -> None:
    """Unlock what :func:`acquire` or :func:`attempt` has locked."""
    if descriptor in _held:
        _held.remove(descriptor)
        os.close(descriptor)


def _names(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def holder(path: Path) -> tuple[str, str]:
    """Host and process in a lock file."""
    try:
        host, process = path.read_text().split()
    except (OSError, ValueError):  # the process is just writing it
        return "unknown", "unknown"
    return host, process


@functools.cache
def _forget_when_forked() -> None:
    """Make forked processes, such as the workers of data loaders, close the files. They may outlive this process."""
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    while _held:
        os.close(_held.pop())
