"""Files of arrays that processes map into memory, so that a machine has their content once."""

import hashlib
import json
import math
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ssm_core.errors import DataError

_TYPES = ("<i8", "<i4", "<f8", "|u1")  # what arrays may consist of; none of it is an object
_ALIGNED = 64  # bytes
_BLOCK = 1 << 20
_FOOTER = struct.Struct("<q20s8s")  # length of the description, digest of all before the footer, mark
_MARK = b"arrays-1"


def write_arrays(file: BinaryIO, arrays: Mapping[str, np.ndarray], notes: Any) -> None:
    """Write arrays, one after the other, then what they are, and a digest of it all.

    Args:
        file: the open file.
        arrays: whole numbers, float64 or bytes.
        notes: what else to keep, as JSON.
    """
    digest, place = hashlib.blake2b(digest_size=20), 0
    described = {}

    def put(data: bytes | memoryview) -> None:
        nonlocal place
        file.write(data)
        digest.update(data)
        place += len(data)

    for name, array in arrays.items():
        put(bytes(-place % _ALIGNED))
        described[name] = [array.dtype.str, list(array.shape), place]
        flat = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        for start in range(0, len(flat), _BLOCK):
            put(flat[start : start + _BLOCK])
    text = json.dumps({"arrays": described, "notes": notes}).encode()
    put(text)
    file.write(_FOOTER.pack(len(text), digest.digest(), _MARK))


class ArrayFile:
    """The arrays of a file that :func:`write_arrays` wrote. They cannot be written to.

    All of the file is read once and compared with its digest. After that a page is in memory if an array is used there,
    and processes of a machine share it. A copy that another process gets, such as a worker of a data loader, opens the
    file of this one, also if the file has lost its name.

    Args:
        path: the file.

    Attributes:
        arrays: by their names.
        notes: what :func:`write_arrays` was given.

    Raises:
        DataError: the file is no such file, or is not whole, or its content was changed.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._open(self.path)

    def __getstate__(self) -> dict[str, str]:
        return {"path": self.path, "open": f"/proc/{os.getpid()}/fd/{self._file.fileno()}"}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.path = state["path"]
        self._open(state["open"])

    def __deepcopy__(self, memo: dict[int, Any]) -> "ArrayFile":
        return self  # nothing in it can change

    def _open(self, path: str) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  # it lives as long as the arrays
        self.arrays: dict[str, np.ndarray] = {}
        try:
            description = self._description()
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            for name, (kind, shape, place) in description["arrays"].items():
                if kind not in _TYPES:
                    raise ValueError(f"an array of {kind}")
                count = math.prod(shape)
                flat = np.frombuffer(mapped, kind, count, place) if count else np.zeros(0, kind)
                self.arrays[name] = flat.reshape(shape)
            self.notes = description["notes"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            self._file.close()
            raise DataError(f"{self.path} is damaged: {' '.join(str(error).split())}") from error
        except BaseException:
            self._file.close()
            raise

    def _description(self) -> Any:
        size = os.fstat(self._file.fileno()).st_size - _FOOTER.size
        length, expected, mark = _FOOTER.unpack(self._read(_FOOTER.size, size)) if size > 0 else (0, b"", b"")
        if mark != _MARK or not 0 < length <= size:
            raise DataError(f"{self.path} is no file of arrays, or not all of it")
        digest = hashlib.blake2b(digest_size=20)
        for start in range(0, size, _BLOCK):
            digest.update(self._read(min(_BLOCK, size - start), start))
        if digest.digest() != expected:
            raise DataError(f"{self.path} is damaged: its content is not what was written")
        return json.loads(self._read(length, size - length))

    def _read(self, size: int, place: int) -> bytes:
        # Pages of a mapped file would count as memory of this process.
        return os.pread(self._file.fileno(), size, place)
