"""Whether a file is still the one from which something was made."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_BLOCK = 4096
_BLOCKS = 64  # of a file that seems to be the same
_STRIDE = 1 << 20
_SETTLED = 2 * 10**9  # nanoseconds; file systems tell no times apart that are nearer


class SourceMark(NamedTuple):
    """What a file is known by.

    Attributes:
        size: in bytes.
        changed: when its content was changed, in nanoseconds.
        touched: when anything of it was changed, which no program can set.
        settled: whether it had not been changed for some time when it was read. A later change then has another time.
        sample: digest of blocks that are spread over it.
        whole: digest of all of it.
    """

    size: int
    changed: int
    touched: int
    settled: bool
    sample: str
    whole: str

    def difference(self, path: str | Path) -> str:
        """What shows that a file is another one now, as words that follow its name; empty if it is the same.

        All of it is read if it has another time, or was read when it had just been written.

        Raises:
            OSError: the file cannot be read.
        """
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_size != self.size:
                return f"has {found.st_size} bytes and had {self.size}"
            times = found.st_mtime_ns, found.st_ctime_ns
            if self.settled and times == (self.changed, self.touched):
                same = _sample(lambda size, place: os.pread(file.fileno(), size, place), self.size) == self.sample
            else:
                whole = hashlib.blake2b(digest_size=20)
                while block := file.read(_STRIDE):
                    whole.update(block)
                same = whole.hexdigest() == self.whole
        return "" if same else "has another content"


def marked(path: str | Path) -> tuple[bytes, SourceMark]:
    """The content of a file, and what the file is known by.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        now = time.time_ns()
        content = file.read()
    times = found.st_mtime_ns, found.st_ctime_ns
    return content, SourceMark(
        len(content),
        *times,
        settled=max(times) + _SETTLED < now,
        sample=_sample(lambda size, place: content[place : place + size], len(content)),
        whole=hashlib.blake2b(content, digest_size=20).hexdigest(),
    )


def _sample(read: Callable[[int, int], bytes], size: int) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for number in range(_BLOCKS):
        digest.update(read(_BLOCK, max(size - _BLOCK, 0) * number // (_BLOCKS - 1)))
    return digest.hexdigest()
