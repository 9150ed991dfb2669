"""Reads the files of ``torch.save`` without ``torch.load``, since anybody can have written them.

A file of ``torch.save`` is a pickle and the bytes of its tensors. A pickle is a program. Here it may call only the few
functions that build tensors and plain containers, and these check what they are given:

* An archive is stored, not compressed, and its entries are together no larger than the file.
* A tensor lies within its bytes and has no more elements than they hold. ``torch.load`` would enlarge the bytes.
* What the pickle copies, nests and repeats is in proportion to its length.

So the memory and the time that a file takes are in proportion to its size.
"""

import io
import os
import pickle
import pickletools
import struct
import sys
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor, nn

_CHUNK = 1 << 20  # bytes that are read at once; the processor's cache has them while their checksum is computed
_THREADS = 4  # that read tensors; more than cores, since a machine has other work
_DEPTH = 100  # containers within containers
_BUILDS = 256  # objects with attributes; a state dict is one, and each copies them
_LONG_INTEGERS = 256  # of more than 9 bytes; dictionaries of such integers can be made to take very long
_SLACK = 100_000  # items that any file may have
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # files of torch before version 1.6
# Opcodes that torch.save never writes and that cost more than their length, or bypass the checks of the reader.
_REFUSED = {
    "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "PERSID", "INT", "LONG",
    "LONG4", "FLOAT", "STRING", "UNICODE", "PUT", "GET",
}  # fmt: skip
_DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip


class MalformedFileError(Exception):
    """A file is not what ``torch.save`` writes. The message says what is wrong, if that is known."""


class ForeignObjectError(Exception):
    """A pickle asks for a function or a class that reading weights does not need. The message is its name."""


class _Storage(NamedTuple):
    """Bytes of tensors, and the type of their elements."""

    values: Tensor  # [bytes] uint8
    dtype: torch.dtype


class _Settings(OrderedDict[Any, Any]):
    """Stands for yacs's ``CfgNode``, which the authors' training scripts save. It makes plain dictionaries."""

    def __new__(cls) -> OrderedDict[Any, Any]:  # type: ignore[misc]  # another class than its own
        return OrderedDict()


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
            return _unpickle(content, _nothing(), building=False)
        value = _unpickle(content, _Storages(read, device))
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
        nothing = _nothing()
        if _unpickle(version, nothing) != 1001:
            raise MalformedFileError("")
        # The bytes follow the pickle that names them. The first pass over it finds their types.
        _unpickle(content, nothing, building=False)
        found = {}
        for key in _unpickle(last, nothing):
            (count,) = struct.unpack("<q", file.read(8))
            size = count * nothing.dtypes[key].itemsize
            if not 0 <= size <= left - file.tell():
                raise MalformedFileError("a tensor is cut off")
            found[key] = _bytes_of(file, size)

    def read(key: str, size: int) -> Tensor:
        if found[key].numel() != size:
            raise MalformedFileError(f"the tensor {key} has {found[key].numel()} bytes and is said to have {size}")
        return found[key]

    return _unpickle(content, _Storages(read, torch.device(device)))


class _Storages:
    """The storages that the pickle of a file names. Each is read once.

    Args:
        read: the bytes of a key, of which the pickle says how many there are.
        device: where they go.
    """

    def __init__(self, read: Callable[[str, int], Tensor], device: torch.device) -> None:
        self.read, self.device = read, device
        self.known: dict[str, Tensor] = {}
        self.dtypes: dict[str, torch.dtype] = {}

    def get(self, identity: Any) -> _Storage:
        """The storage of one persistent identity."""
        kind, dtype, key, _location, count, *view = identity
        if (
            kind != "storage"
            or not isinstance(dtype, torch.dtype)
            or not isinstance(key, str)
            or view not in ([], [None])
        ):
            raise MalformedFileError("a tensor's bytes are described wrongly")
        if not isinstance(count, int) or count < 0 or self.dtypes.setdefault(key, dtype) is not dtype:
            raise MalformedFileError("a tensor's bytes are described wrongly")
        if key not in self.known:
            self.known[key] = self.read(key, count * dtype.itemsize).to(self.device)
        return _Storage(self.known[key], dtype)


def _nothing() -> _Storages:
    """Storages without bytes, to read only what a pickle says about them."""
    return _Storages(lambda key, size: torch.empty(0, dtype=torch.uint8), torch.device("cpu"))


class _Reader(pickle.Unpickler):
    """An unpickler that knows the functions below and no others.

    Args:
        content: the pickle.
        storages: the bytes of its tensors.
        building: whether tensors are made; None stands for them otherwise.
    """

    def __init__(self, content: bytes, storages: _Storages, building: bool) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self.storages = storages
        self.budget = 4 * len(content) + _SLACK
        build = _tensor if building else _no_tensor
        self.known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor"): build,
            ("torch._utils", "_rebuild_tensor_v2"): build,
            ("torch._utils", "_rebuild_tensor_v3"): build,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
            ("collections", "OrderedDict"): self._copies(OrderedDict),
            ("collections", "Counter"): self._copies(Counter),
            ("builtins", "set"): self._copies(set),
            ("torch", "Size"): self._copies(torch.Size),
            ("yacs.config", "CfgNode"): _Settings,
            ("_codecs", "encode"): self._encoded,
            ("builtins", "complex"): complex,
            ("torch", "device"): torch.device,
        }

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor lies in."""
        return self.storages.get(pid)

    def find_class(self, module: str, name: str) -> Any:
        """The function or the type of a name. It is never imported."""
        module = "builtins" if module == "__builtin__" else module
        if (module, name) in self.known:
            return self.known[module, name]
        if module in ("torch", "torch.storage", "torch.cuda") and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        raise ForeignObjectError(f"{module}.{name}")

    def _copies(self, kind: Callable[..., Any]) -> Callable[..., Any]:
        """A constructor whose copies count, because a short pickle could copy one long list any number of times."""

        def make(*values: Any) -> Any:
            for value in values:
                self._spend(len(value))
            return kind(*values)

        return make

    def _encoded(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise MalformedFileError("")
        self._spend(len(text))
        return text.encode("latin1")

    def _spend(self, items: int) -> None:
        self.budget -= items
        if self.budget < 0:
            raise MalformedFileError("it repeats its contents so often that reading them would take too much memory")


def _tensor(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *more: Any) -> Tensor:
    """A tensor within its storage. What follows the strides is whether it has a gradient, hooks, and other flags.

    Version 3 has the type of the elements among them.
    """
    flags = [value for value in more[2:] if value]
    dtypes = [value for value in flags if isinstance(value, torch.dtype)]
    if not isinstance(storage, _Storage) or len(flags) > len(dtypes) or len(dtypes) > 1:
        raise MalformedFileError("a tensor is described wrongly")
    dtype = dtypes[0] if dtypes else storage.dtype
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or any(type(number) is not int or number < 0 for number in numbers):
        raise MalformedFileError("a tensor has a size or a stride that is no number")
    held = storage.values.numel() // dtype.itemsize
    count, last = 1, offset
    for extent, step in zip(size, stride, strict=True):
        count, last = count * extent, last + (extent - 1) * step
    if count and (last >= held or count > held):
        raise MalformedFileError(f"a tensor has {count} elements, and its bytes are of {held}")
    if not count and offset > held:
        raise MalformedFileError("a tensor begins behind its bytes")
    empty = torch.empty(0, dtype=dtype, device=storage.values.device)
    if not count:
        return empty.reshape(tuple(size))
    return empty.set_(storage.values.untyped_storage(), offset, tuple(size), tuple(stride))


def _no_tensor(*_description: Any) -> None:
    return None


def _parameter(data: Tensor | None, *_flags: Any) -> Tensor | None:
    if data is not None and not isinstance(data, Tensor):
        raise MalformedFileError("a parameter is described wrongly")
    floating = data is not None and (data.is_floating_point() or data.is_complex())
    return nn.Parameter(data, requires_grad=floating) if data is not None else None


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


def _scan(content: bytes) -> None:
    """Raise a :class:`MalformedFileError` if a pickle has opcodes that would cost more than its length."""
    builds = integers = 0
    for opcode, found, _place in pickletools.genops(content):
        name, argument = opcode.name, cast(Any, found)
        if name in _REFUSED or (name == "LONG_BINPUT" and argument > len(content)):
            raise MalformedFileError(f"torch writes no {name} in a pickle")
        builds += name == "BUILD"
        integers += name == "LONG1" and abs(argument) >> 71 != 0
        if builds > _BUILDS or integers > _LONG_INTEGERS:
            raise MalformedFileError("it has too many objects for the weights of a model")


def _unpickle(content: bytes, storages: _Storages, building: bool = True) -> Any:
    _scan(content)
    reader = _Reader(content, storages, building)
    value = reader.load()
    _check_extent(value, reader.budget)
    return value


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value


def _check_extent(value: Any, budget: int) -> None:
    """Check that whoever walks over a value comes to an end. Take attributes from dictionaries, which hide methods."""
    level, depth = [value], 0
    while level:
        depth += 1
        following: list[Any] = []
        for item in level:
            if isinstance(item, _Storage) or callable(item):
                _foreign(item)
            if isinstance(item, OrderedDict) and vars(item):
                metadata = vars(item).get("_metadata")
                vars(item).clear()
                if _is_metadata(metadata):
                    vars(item)["_metadata"] = metadata
            if isinstance(item, Mapping | list | tuple | set | frozenset):
                budget -= 1 + len(item)
                if budget < 0 or depth > _DEPTH:
                    raise MalformedFileError("its contents are nested too deeply or repeat each other too often")
                following.extend(_children(item))
        level = following


def _is_metadata(value: Any) -> bool:
    """Whether a value is what torch keeps beside a state dict: the versions of the modules."""
    if not isinstance(value, OrderedDict | dict):
        return False
    return all(
        isinstance(name, str) and isinstance(entry, dict) and all(isinstance(n, int) for n in entry.values())
        for name, entry in value.items()
    )


def _foreign(item: Any) -> NoReturn:
    raise MalformedFileError(f"it holds a {type(item).__name__} where data should be")
