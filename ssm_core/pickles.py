"""Reads the pickles of ``torch.save``. A pickle is a program for a small machine, and anybody can have written it.

The machine here has the instructions that ``torch.save`` uses and no others, and calls only the few functions that
build tensors and plain containers. Both check what they are given, so that the memory and the time that a pickle takes
are in proportion to its length:

* A tensor lies within its bytes and has no more elements than they hold. ``torch.load`` would enlarge the bytes.
* What the pickle copies, nests and repeats is in proportion to its length, and so is the number of objects.
* Few keys have hashes that the author of a file can choose.
"""

import io
import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

_DEPTH = 100  # containers within containers
_DIMENSIONS = 64  # of a tensor
_BUILDS = 256  # objects with attributes; a state dict is one, and each copies them
_LONG_INTEGERS = 256  # of more than 9 bytes
# Keys other than texts, bytes and small integers. Their hashes are known before, so that a file could have any number
# of keys with the same one. Python then compares each with all before it.
_OTHER_KEYS = 256
_FREE_KEYS = {str, bytes, bool, type(None)}
_SLACK = 100_000  # items that any file may have
_LENGTH_OF_OBJECT = 16  # bytes of a pickle for each object beyond these; an empty set is one byte and takes 216
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


class Storage(NamedTuple):
    """Bytes of tensors, and the type of their elements."""

    values: Tensor  # [bytes] uint8
    dtype: torch.dtype


class _Settings(OrderedDict[Any, Any]):
    """Stands for yacs's ``CfgNode``, which the authors' training scripts save. It makes plain dictionaries."""

    def __new__(cls) -> OrderedDict[Any, Any]:  # type: ignore[misc]  # another class than its own
        return OrderedDict()


class Storages:
    """The storages that the pickle of a file names. Each is read once.

    Args:
        read: the bytes of a key, of which the pickle says how many there are.
        device: where they go.
    """

    def __init__(self, read: Callable[[str, int], Tensor], device: torch.device) -> None:
        self.read, self.device = read, device
        self.known: dict[str, Tensor] = {}
        self.dtypes: dict[str, torch.dtype] = {}

    def get(self, identity: Any) -> Storage:
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
        return Storage(self.known[key], dtype)


def without_bytes() -> Storages:
    """Storages without bytes, to read only what a pickle says about them."""
    return Storages(lambda key, size: torch.empty(0, dtype=torch.uint8), torch.device("cpu"))


class _Reader(pickle._Unpickler):
    """An unpickler that knows the instructions and the functions below, and no others.

    It is the one of Python's library that is written in Python. The other one does not let anybody look at its stack.

    Args:
        content: the pickle.
        storages: the bytes of its tensors.
        building: whether tensors are made; None stands for them otherwise.
    """

    # What Python's unpickler works on: the items since the last mark, and lists of those before it.
    stack: list[Any]
    metastack: list[list[Any]]
    memo: dict[int, Any]
    read: Callable[[int], bytes]

    def __init__(self, content: bytes, storages: Storages, building: bool) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self.storages = storages
        self.length = len(content)
        self.budget = 4 * len(content) + _SLACK
        self.objects = len(content) // _LENGTH_OF_OBJECT + _SLACK
        self.builds, self.long_integers, self.other_keys = _BUILDS, _LONG_INTEGERS, _OTHER_KEYS
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

    def persistent_load(self, pid: Any) -> Storage:
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
                pairs = kind is OrderedDict and not isinstance(value, Mapping)
                self.check_keys(pair[0] for pair in value) if pairs else self.check_keys(value)
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

    def check_keys(self, keys: Iterable[Any]) -> None:
        """Count the keys whose hashes anybody can choose."""
        keys = list(keys)
        if {*map(type, keys)} <= _FREE_KEYS:
            return
        last = max(self.length, _SLACK)
        self.other_keys -= sum(
            type(key) not in _FREE_KEYS and not (type(key) is int and 0 <= key < last) for key in keys
        )
        if self.other_keys < 0:
            raise MalformedFileError(f"it has more than {_OTHER_KEYS} keys that are no names and no small numbers")


def _counted(name: str) -> Callable[[Any], None]:
    """An instruction that makes an object, which may take more memory than the instruction."""

    def do(reader: _Reader) -> None:
        reader.objects -= 1
        if reader.objects < 0:
            raise MalformedFileError("it has too many objects for its size")
        _DO[name](reader)

    return do


def _into(name: str, kind: type, several: bool) -> Callable[[Any], None]:
    """An instruction that puts items into a container.

    Args:
        name: its name.
        kind: the containers that it may have. Others have methods of the same names that do something else.
        several: whether there is a mark between the container and the items.
    """

    def do(reader: _Reader) -> None:
        items = reader.stack if several else reader.stack[-2 if kind is dict else -1 :]
        container = reader.metastack[-1][-1] if several else reader.stack[-1 - len(items)]
        if not isinstance(container, kind):
            raise MalformedFileError(f"it puts items into something else than a {kind.__name__}")
        if kind is not list:
            reader.check_keys(items[::2] if kind is dict else items)
        _DO[name](reader)

    return do


def _frozen_set(reader: _Reader) -> None:
    reader.check_keys(reader.stack)
    _DO["FROZENSET"](reader)


def _put(reader: _Reader) -> None:
    """Remember the last item under a number. Python in C makes room for all numbers up to it."""
    (number,) = struct.unpack("<I", reader.read(4))
    if number > reader.length:
        raise MalformedFileError(f"it remembers more than its {reader.length} bytes")
    reader.memo[number] = reader.stack[-1]


def _long(reader: _Reader) -> None:
    _DO["LONG1"](reader)
    reader.long_integers -= abs(reader.stack[-1]) >> 71 != 0
    if reader.long_integers < 0:
        raise MalformedFileError("it has too many long integers for the weights of a model")


def _attributes(reader: _Reader) -> None:
    """Give attributes to an object. Tensors would understand them as another shape, and take memory for it."""
    reader.builds -= 1
    if reader.builds < 0:
        raise MalformedFileError("it has too many objects for the weights of a model")
    if type(reader.stack[-2]) is not OrderedDict or not isinstance(reader.stack[-1], dict):
        raise MalformedFileError("it gives attributes to something else than a state dict")
    _DO["BUILD"](reader)


_DO: Mapping[str, Callable[[Any], None]] = {
    name: pickle._Unpickler.dispatch[code[0]]
    for name, code in vars(pickle).items()
    if name.isupper() and isinstance(code, bytes) and len(code) == 1 and code[0] in pickle._Unpickler.dispatch
}
# The instructions that torch.save uses. Those that put an item on the stack or in the memo are Python's.
_Reader.dispatch = {
    getattr(pickle, name)[0]: do
    for name, do in (
        {
            name: _DO[name]
            for name in (
                "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "BINPUT", "MEMOIZE", "BINGET",
                "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT", "BINBYTES",
                "BINBYTES8", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "BINUNICODE8",
                "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "STACK_GLOBAL",
                "BINPERSID",
            )
        }
        | {name: _counted(name) for name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "REDUCE", "NEWOBJ")}
        | {
            "APPEND": _into("APPEND", list, several=False),
            "APPENDS": _into("APPENDS", list, several=True),
            "SETITEM": _into("SETITEM", dict, several=False),
            "SETITEMS": _into("SETITEMS", dict, several=True),
            "ADDITEMS": _into("ADDITEMS", set, several=True),
            "FROZENSET": _frozen_set,
            "LONG1": _long,
            "LONG_BINPUT": _put,
            "BUILD": _attributes,
        }
    ).items()
}  # fmt: skip


def unpickle(content: bytes, storages: Storages, building: bool = True) -> Any:
    """Read a pickle.

    Args:
        content: the pickle.
        storages: the bytes of its tensors.
        building: whether tensors are made; None stands for them otherwise.

    Raises:
        MalformedFileError: ``torch.save`` does not write such a pickle.
        ForeignObjectError: it asks for other things than tensors and plain data.
    """
    reader = _Reader(content, storages, building)
    try:
        value = reader.load()
    except KeyError as error:
        instruction = error.args[0] if error.args else None
        if isinstance(instruction, int) and instruction not in _Reader.dispatch:
            raise MalformedFileError(f"torch writes no {bytes([instruction & 255])!r} in a pickle") from None
        raise
    _check_extent(value, reader.budget)
    return value


def _tensor(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *more: Any) -> Tensor:
    """A tensor within its storage. What follows the strides is whether it has a gradient, hooks, and other flags.

    Version 3 has the type of the elements among them.
    """
    flags = [value for value in more[2:] if value]
    dtypes = [value for value in flags if isinstance(value, torch.dtype)]
    if not isinstance(storage, Storage) or len(flags) > len(dtypes) or len(dtypes) > 1:
        raise MalformedFileError("a tensor is described wrongly")
    dtype = dtypes[0] if dtypes else storage.dtype
    numbers = (offset, *size, *stride)
    if len(size) > _DIMENSIONS:  # their product could take very long
        raise MalformedFileError(f"a tensor has {len(size)} dimensions")
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
            if isinstance(item, Storage) or callable(item):
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
