"""Tar files of WebDataset's form, whose files are read at any place.

A shard is read through once, without the contents of its images. The list of its files is kept, so that later starts
read the list alone. Nothing is ever extracted, and links are not followed.
"""

import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from mmengine.logging import print_log

from ssm_core.errors import ConfigError, DataError
from ssm_core.writing import WriteError
from ssm_train.data.images import is_data
from ssm_train.runtime.files import write_atomically

LARGEST = 2**28  # bytes of the largest file that is read from a shard
_FORMAT = 1  # of the lists that are kept
_TEXTS = (".cls", ".txt", ".text", ".json", ".jsn")  # endings of files whose content is kept in the list
_LARGEST_TEXT = 2**12  # bytes of such a content
_LARGEST_HEADER = 2**20  # bytes of a header in a shard; a long name is in one
_MOST_SHARDS = 2**17
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_META = re.compile(r"__[^/]*__($|/)")  # WebDataset's own files
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")


class Member(NamedTuple):
    """A file in a shard.

    Attributes:
        name: its name there.
        offset: its place in the shard in bytes.
        size: in bytes.
        text: its content, if that is a short text.
    """

    name: str
    offset: int
    size: int
    text: str | None = None


class Shard(NamedTuple):
    """What a shard holds.

    Attributes:
        path: the tar file.
        size: of the shard in bytes.
        changed: time of its last change in nanoseconds.
        members: the files that may be read, in their order.
        left_out: the name of every other file and what is wrong with it.
        damage: what keeps the rest of the shard from being read; an empty text if nothing does.
    """

    path: str
    size: int
    changed: int
    members: list[Member]
    left_out: list[tuple[str, str]]
    damage: str

    def read(self, offset: int, size: int) -> bytes:
        """The content of a file.

        Raises:
            OSError: the shard cannot be read.
            ValueError: the file is too large.
            DataError: the shard is no longer the one that was listed.
        """
        if size > LARGEST:
            raise ValueError(f"it has {size} bytes, more than {LARGEST}")
        with open(self.path, "rb", buffering=0) as file:
            if _stamp(file) != (self.size, self.changed):
                raise DataError(f"the shard {self.path} has changed since it was listed: start the run again")
            content = os.pread(file.fileno(), size, offset)
        if len(content) < size:
            raise OSError("the shard ends within it")
        return content


def expand_shards(shards: str | Sequence[str]) -> list[str]:
    """The paths of shards.

    Args:
        shards: a path, several with ``::`` between, or a list. ``train-{000..146}.tar`` stands for 147 shards, and
            ``{train,extra}-000.tar`` for two.

    Raises:
        ConfigError: they are none, too many, the same one twice, or no local files.
    """
    given = shards.split("::") if isinstance(shards, str) else list(shards)
    paths = []
    for text in given:
        if not isinstance(text, str) or not text:
            raise ConfigError(f"shards are paths of tar files, and {text!r} is none")
        if "://" in text or text.startswith("pipe:"):
            raise ConfigError(f"shards are local files: download {text!r} first")
        for path in _expanded(text):
            paths.append(path)
            if len(paths) > _MOST_SHARDS:
                raise ConfigError(f"{text!r} stands for more than {_MOST_SHARDS} shards")
    if not paths:
        raise ConfigError("a dataset of shards needs at least one")
    [(twice, times)] = Counter(paths).most_common(1)
    if times > 1:
        raise ConfigError(f"the shard {twice} is listed twice: RepeatDataset repeats a dataset")
    return paths


def list_shard(path: str) -> Shard:
    """List the files of a shard, from the list that an earlier start has kept if the shard is the same.

    The lists are in ``ssm_shards`` of ``torch.hub.get_dir()``, which ``TORCH_HOME`` moves.

    Raises:
        DataError: the shard is missing, unreadable, compressed, or no tar file.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        raise DataError(f"there is no shard {path}")
    kept = Path(torch.hub.get_dir()) / "ssm_shards" / f"{_digest(os.path.realpath(path))}.json"
    try:
        with open(path, "rb") as file:
            size, changed = _stamp(file)
            if (shard := _kept(kept, path, size, changed)) is not None:
                return shard
            shard = _scanned(file, path, size, changed)
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from error
    content = json.dumps([_FORMAT, *shard[1:]]).encode()
    try:
        write_atomically(kept, lambda opened: opened.write(content), durable=False)
    except WriteError as error:
        print_log(f"the list of {path} is made at every start, since it cannot be kept: {error}", logger="current")
    return shard


def key_and_ending(name: str) -> tuple[str, str] | None:
    """Split the name of a file as WebDataset does: the key up to the first dot of the name, and the rest.

    Returns:
        The key, which the files of a sample share, and the ending in lower case and without its dot. None if the file
        is part of no sample.
    """
    match = _KEY.fullmatch(name)
    if match is None or _META.match(name) or not all(is_data(part) for part in name.split("/") if part != "."):
        return None
    return match[1], match[2].lower()


def _expanded(text: str) -> Iterator[str]:
    match = _BRACES.search(text)
    if match is None:
        yield text
        return
    first, last, names = match.groups()
    if names is not None:
        middle: Any = names.split(",")
    else:
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        step = 1 if int(first) <= int(last) else -1
        middle = (f"{number:0{width}d}" for number in range(int(first), int(last) + step, step))
    for part in middle:
        for rest in _expanded(text[match.end() :]):
            yield f"{text[: match.start()]}{part}{rest}"


def _stamp(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


def _kept(kept: Path, path: str, size: int, changed: int) -> Shard | None:
    """The list that was kept of a shard, if it is whole and of this shard as it is now."""
    try:
        version, of_size, of_time, members, left_out, damage = json.loads(kept.read_text())
        if (version, of_size, of_time) != (_FORMAT, size, changed):
            return None
        listed = [Member(*member) for member in members]
        if all(0 <= member.offset <= member.offset + member.size <= size for member in listed):
            return Shard(path, size, changed, listed, [(name, words) for name, words in left_out], damage)
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    return None


class _Headers:
    """A file of which a library reads headers alone, and not without end.

    Args:
        file: the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes.

        Raises:
            ValueError: these are too many for a header.
        """
        if not 0 <= size <= _LARGEST_HEADER:
            raise ValueError("a header is too large")
        return self.file.read(size)


def _scanned(file: BinaryIO, path: str, size: int, changed: int) -> Shard:
    if method := _COMPRESSED.get(file.read(2)):
        raise DataError(
            f"the shard {path} is compressed by {method}, so that its images cannot be read one by one: unpack it to "
            "a tar file"
        )
    file.seek(0)
    shard = Shard(path, size, changed, [], [], "")
    try:
        archive = tarfile.open(fileobj=_Headers(file), mode="r:", errors="backslashreplace")  # noqa: SIM115
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no tar file: {_one_line(error)}") from error
    place = -1
    try:
        while (info := archive.next()) is not None:
            archive.members.clear()  # it would keep them all
            if archive.offset <= place:  # a size below 0 would make it go round
                raise ValueError("a header has an absurd size")
            place = archive.offset
            _sort_in(info, shard, file)
        damage = _rest(file, archive.offset)
    except (tarfile.TarError, ValueError, RecursionError) as error:
        damage = _one_line(error)
    return shard._replace(damage=damage)


def _sort_in(info: tarfile.TarInfo, shard: Shard, file: BinaryIO) -> None:
    name = re.sub(r"[^ -~\u00a1-\ud7ff\ue000-\U0010ffff]", lambda match: ascii(match[0])[1:-1], info.name)
    if info.isdir():
        return
    if not info.isreg() or info.issparse():
        shard.left_out.append((name, "is a link or a special file"))
    elif name.startswith("/") or ".." in name.split("/"):
        shard.left_out.append((name, "has a name that leads out of the shard"))
    elif info.size < 0 or info.offset_data + info.size > shard.size:
        raise ValueError(f"it ends within {name}")
    else:
        text = None
        if name.lower().endswith(_TEXTS) and info.size <= _LARGEST_TEXT:
            content = os.pread(file.fileno(), info.size, info.offset_data)
            try:
                text = content.decode()
            except UnicodeDecodeError:  # whoever uses it says so
                text = None
        shard.members.append(Member(name, info.offset_data, info.size, text))


def _rest(file: BinaryIO, offset: int) -> str:
    """What is wrong with a shard behind its last file. It has to end with two blocks of zeros."""
    file.seek(offset)
    end = file.read(2 * tarfile.BLOCKSIZE)
    if not end:
        return "it has no mark of its end, so that it may be cut off"
    while not end.strip(b"\0"):
        end = file.read(_LARGEST_HEADER)
        if not end:
            return ""
    return f"it cannot be read from byte {file.tell() - len(end)} on"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
