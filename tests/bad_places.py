"""Places that cannot be written, for processes that a test starts: small disks of their own, read-only ones, limits."""

import contextlib
import ctypes
import errno
import functools
import os
import resource
import sys
from pathlib import Path

NOT_ALLOWED = 77  # exit status
_NEW_NAMESPACE, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE, _RECURSIVE, _READ_ONLY, _REMOUNT = 1 << 18, 1 << 14, 1, 1 << 5


def _system_call(name, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def _mount(kind, place, flags, data=""):
    _system_call("mount", b"none", os.fsencode(place), kind.encode(), flags, data.encode())


@functools.cache
def own_mounts():
    """Let this process alone see what it mounts, once. The mounts end with the process."""
    user, group = os.getuid(), os.getgid()
    _system_call("unshare", _NEW_NAMESPACE | (_NEW_USER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("", "/", _PRIVATE | _RECURSIVE)


def try_own_mounts():
    """End with :data:`NOT_ALLOWED` if the system lets no process have mounts of its own."""
    try:
        own_mounts()
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.ENOSYS):
            raise
        sys.exit(NOT_ALLOWED)


def disk(place, size="1m", files=0):
    """Mount an empty disk of a size in a folder, which takes a number of files if one is given."""
    own_mounts()
    Path(place).mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", place, 0, f"size={size}" + (f",nr_inodes={files}" if files else ""))
    return Path(place)


def protect(place):
    """Make a disk read-only."""
    _mount("", place, _REMOUNT | _READ_ONLY)


@contextlib.contextmanager
def file_limit(size):
    """Let this process write no file that is larger than some bytes. Python gets an error and no signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(place, left=0):
    """Fill the disk of a folder, but for some bytes. Return the file that does."""
    filler = Path(place) / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - left)
    return filler


def take_away(place):
    """Take a disk away. Its folder is empty then."""
    _system_call("umount2", os.fsencode(place), 2)  # also if files are open
