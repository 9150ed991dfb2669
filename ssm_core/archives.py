"""Reads the files of ``torch.save`` without ``torch.load``, since anybody can have written them.

A file of ``torch.save`` is a pickle and the bytes of its tensors. An archive has to be stored, not compressed, and its
entries are together no larger than the file. Its pickle is a program, see :mod:`ssm_core.pickles`. So the memory and
the time that a file takes are in proportion to its size.
"""

import io
import os
import pickletools
import struct
import sys
import zipfile
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from ssm_core.pickles import MalformedFileError, Storages, unpickle, without_bytes

_CHUNK = 1 << 20  # bytes that are read at once; the processor's cache has them while their checksum is computed
_THREADS = 4  # that read tensors; more than cores, since a machine has other work
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # files of torch before version 1.6


def check_entries(archive: zipfile.ZipFile, size: int) -> None:
    """Check that the entries of an archive are as large as they seem.

    Args:
        archive: the archive.
        size: bytes of its file.

    Raises:
        MalformedFileError: an entry is compressed, encrypted or there twice, or they are larger than the file.
    """
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise MalformedFileError("its entries are compressed, as torch never writes them")
    if len({entry.filename for entry in entries}) < len(entries):
        raise MalformedFileError("an entry is there twice")
    if sum(entry.file_size for entry in entries) > size:
        raise MalformedFileError("its entries overlap")


def read_archive(path: str | Path, device: torch.device | str, tensors: bool = True) -> Any:
    """Read a zip archive of ``torch.save``. Every byte that is used is compared with its checksum.

    Args:
        path: the file.
        device: the device for its tensors.
        tensors: whether to read its tensors. None stands for each of them otherwise, and their bytes are not read.

    Raises:
        MalformedFileError: the file is not what ``torch.save`` writes.
        ForeignObjectError: it holds other things than tensors and plain data.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    device = torch.device(device)
    with zipfile.ZipFile(path) as archive, open(path, "rb", buffering=0) as file, _Filling(file.fileno()) as filling:
        check_entries(archive, os.path.getsize(path))
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickled = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise MalformedFileError("")
        root = pickled[0].removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder").decode() != sys.byteorder:
            raise MalformedFileError(f"its numbers are not {sys.byteorder}-endian, as this machine's are")

        def read(key: str, size: int) -> Tensor:
            name = f"{root}data/{key}"
            if name not in entries and size == 0:
                return torch.empty(0, dtype=torch.uint8)
            if entries[name].file_size != size:
                raise MalformedFileError(f"{name} has {entries[name].file_size} bytes and is said to have {size}")
            values = filling.start(entries[name])
            if device.type != "cpu":
                filling.finish()  # before they are copied
            return values

        content = archive.read(pickled[0])
        if not tensors:
            return unpickle(content, without_bytes(), building=False)
        value = unpickle(content, Storages(read, device))
        filling.finish()
        return value


def is_legacy(path: str | Path) -> bool:
    """Whether torch wrote a file before version 1.6. Such files are no archives and have no checksums."""
    with open(path, "rb") as file:
        return file.read(len(_LEGACY_START)) == _LEGACY_START


def read_legacy(path: str | Path, device: torch.device | str) -> Any:
    """Read a file that torch wrote before version 1.6, see :func:`read_archive`."""
    left = os.path.getsize(path)
    with open(path, "rb") as file:
        _magic, version, _system, content, last = (_next_pickle(file) for _ in range(5))
        nothing = without_bytes()
        if unpickle(version, nothing) != 1001:
            raise MalformedFileError("")
        # The bytes follow the pickle that names them. The first pass over it finds their types.
        unpickle(content, nothing, building=False)
        found = {}
        for key in unpickle(last, nothing):
            (count,) = struct.unpack("<q", file.read(8))
            size = count * nothing.dtypes[key].itemsize
            if not 0 <= size <= left - file.tell():
                raise MalformedFileError("a tensor is cut off")
            found[key] = _bytes_of(file, size)

    def read(key: str, size: int) -> Tensor:
        if found[key].numel() != size:
            raise MalformedFileError(f"the tensor {key} has {found[key].numel()} bytes and is said to have {size}")
        return found[key]

    return unpickle(content, Storages(read, torch.device(device)))


class _Filling:
    """Fills tensors with entries of an archive, several at a time, while the pickle that names them is read.

    Args:
        file: descriptor of the archive.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self.pool = ThreadPoolExecutor(_THREADS)
        self.running: list[Future[None]] = []

    def __enter__(self) -> "_Filling":
        return self

    def __exit__(self, *_error: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def start(self, entry: zipfile.ZipInfo) -> Tensor:  # [bytes] uint8
        """A tensor that has the bytes of an entry after :meth:`finish`."""
        values = torch.empty(entry.file_size, dtype=torch.uint8)
        self.running.append(self.pool.submit(_fill, values, self.file, entry))
        return values

    def finish(self) -> None:
        """Wait for all tensors. Raise the error of the first that could not be read."""
        while self.running:
            self.running.pop(0).result()


def _fill(values: Tensor, file: int, entry: zipfile.ZipInfo) -> None:
    """Read the bytes of a stored entry, and compare them with its checksum.

    zipfile would copy them twice more. Both reading and the checksum let other threads run.
    """
    header = os.pread(file, 30, entry.header_offset)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise MalformedFileError(f"{entry.filename} is not where it should be")
    place = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))  # behind its name and extra field
    view, done, checksum = memoryview(cast(Any, values.numpy())), 0, 0
    while done < len(view):
        part = view[done : done + _CHUNK]
        count = os.preadv(file, [part], place + done)
        if not count:
            raise MalformedFileError("a tensor is cut off")
        checksum = zlib.crc32(part[:count], checksum)
        done += count
    if checksum != entry.CRC:
        raise MalformedFileError(f"the checksum of {entry.filename} is wrong")


def _bytes_of(stream: IO[bytes], size: int) -> Tensor:  # [size] uint8
    values = torch.empty(size, dtype=torch.uint8)
    if size and cast(io.BufferedReader, stream).readinto(cast(Any, values.numpy())) != size:
        raise MalformedFileError("a tensor is cut off")
    return values


def _next_pickle(file: IO[bytes]) -> bytes:
    """The next of several pickles in a file."""
    start = file.tell()
    for _ in pickletools.genops(file):
        pass
    end = file.tell()
    file.seek(start)
    return file.read(end - start)
