"""Data files that are read from their beginning to their end, packed or not: what a file is, its first bytes say."""

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path

from ssm_core.errors import DataError, MissingPackageError

# What a packed file that is cut off or damaged raises, beside OSError.
DAMAGED = (EOFError, zlib.error, lzma.LZMAError)
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_ZSTD = b"\x28\xb5\x2f\xfd"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def open_data(path: str | Path) -> io.BufferedReader:
    """Open a file of text, which may be packed by gzip, bzip2, xz or zstd, to read its bytes.

    Only a part of the content is in memory.

    Args:
        path: the file.

    Raises:
        DataError: the content is in UTF-16, which some editors write.
        MissingPackageError: the file is packed by zstd, and pyarrow is not installed.
        OSError: the file cannot be opened. What is damaged later raises this, too, or one of :data:`DAMAGED`.
    """
    with open(path, "rb") as file:
        start = file.read(max(map(len, (*_OPENERS, _ZSTD))))
    opener = next((opener for mark, opener in _OPENERS.items() if start.startswith(mark)), None)
    if opener is not None:
        opened = io.BufferedReader(opener(path, "rb"))
    elif start.startswith(_ZSTD):
        try:
            import pyarrow
        except ImportError:
            raise MissingPackageError("pyarrow", f"{path}, which is packed by zstd,", "huggingface") from None
        opened = io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    else:
        opened = open(path, "rb")  # noqa: SIM115  # who calls closes it
    if opened.peek(2)[:2] in _UTF16:
        opened.close()
        raise DataError(f"{path} is in UTF-16, and data files are read in UTF-8: save it as UTF-8")
    return opened
