"""Rows of tokens in a file, so that there may be more of them than fit into memory."""

import errno
import json
import os
import struct
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from ssm_core.errors import DataError
from ssm_core.writing import WriteError

_SIZE = 4  # bytes of a token
_PIECE = 2**20  # bytes that are copied at a time
_FOOTER = struct.Struct("<qq8s")  # number of the ends of rows, length of the notes, mark
_MARK = b"tokens-1"


class TokenRow(NamedTuple):
    """A row of tokens.

    Attributes:
        tokens: the tokens [L], int32.
        responses: first token and end of every response.
        number: of the row in its file, from 0.
        line: on which the row begins in its file, from 1; 0 if that is not known.
    """

    tokens: np.ndarray
    responses: list[tuple[int, int]]
    number: int
    line: int

    @property
    def context_len(self) -> int:
        """The number of tokens before the first response."""
        return self.responses[0][0]


class TokenStore:
    """Rows that are appended one after the other, and then read in any order.

    The file has no name, and its space is free again when the store goes. Other processes of the machine share it, as
    workers of a data loader do, however they are started. A row takes 4 bytes a token there, and 8 bytes of memory.
    Rows are read one by one and not mapped into memory, where a large file would count as memory that is used.

    Args:
        kept: a file that :meth:`write` wrote, to read its rows; None for an empty store.

    Attributes:
        notes: what :meth:`write` was given.

    Raises:
        DataError: the file is no such file, or is not whole.
        OSError: the file cannot be opened.
    """

    def __init__(self, kept: Path | None = None) -> None:
        self.notes: Any = None
        if kept is not None:
            self._file, self._ends, self.notes = _read_kept(kept)
            return
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="tokens-")  # noqa: SIM115  # it lives as long as the store
        self._ends = array("q", [0])

    def append(self, tokens: Sequence[int], responses: Sequence[tuple[int, int]], number: int, line: int = 0) -> None:
        """Append a row. The arguments are the attributes of a :class:`TokenRow`.

        Raises:
            WriteError: the disk is full.
        """
        flat = [place for span in responses for place in span]
        head = np.array([number, line, len(responses), *flat], dtype=np.int32)
        record = np.concatenate([head, np.asarray(tokens, dtype=np.int32)])
        with _explained():
            self._file.write(record.tobytes())
        self._ends.append(self._ends[-1] + len(record))

    def write(self, file: BinaryIO, notes: Any) -> None:
        """Write the rows to a file that outlives the store.

        Args:
            file: the open file.
            notes: what else to keep, as JSON.
        """
        with _explained():
            self._file.flush()
        for start in range(0, _SIZE * self._ends[-1], _PIECE):
            file.write(os.pread(self._file.fileno(), min(_PIECE, _SIZE * self._ends[-1] - start), start))
        text = json.dumps(notes).encode()
        file.write(self._ends.tobytes() + text + _FOOTER.pack(len(self._ends), len(text), _MARK))

    def __getstate__(self) -> dict[str, Any]:
        with _explained():
            self._file.flush()
        return {"path": f"/proc/{os.getpid()}/fd/{self._file.fileno()}", "ends": self._ends}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._file, self._ends, self.notes = open(state["path"], "rb"), state["ends"], None  # noqa: SIM115

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> TokenRow:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no row {index} among {len(self)}")
        with _explained():
            self._file.flush()
        start, end = self._ends[index : index + 2]
        record = np.frombuffer(os.pread(self._file.fileno(), _SIZE * (end - start), _SIZE * start), np.int32)
        number, line, count = record[:3].tolist()
        spans = record[3 : 3 + 2 * count].reshape(count, 2).tolist()
        return TokenRow(record[3 + 2 * count :], [(first, end) for first, end in spans], number, line)


def _read_kept(path: Path) -> tuple[IO[bytes], array, Any]:
    """The file of a store, the ends of its rows and its notes."""
    file = open(path, "rb")  # noqa: SIM115  # it lives as long as the store
    size = os.fstat(file.fileno()).st_size
    ends, notes = array("q"), b""
    if size >= _FOOTER.size:
        count, length, mark = _FOOTER.unpack(os.pread(file.fileno(), _FOOTER.size, size - _FOOTER.size))
        place = size - _FOOTER.size - length - ends.itemsize * count
        if mark == _MARK and count > 0 and length > 0 and place >= 0:
            ends.frombytes(os.pread(file.fileno(), ends.itemsize * count, place))
            notes = os.pread(file.fileno(), length, place + ends.itemsize * count)
            if _SIZE * ends[-1] == place:
                return file, ends, json.loads(notes)
    file.close()
    raise DataError(f"{path} holds no tokens, or not all of them")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        folder = tempfile.gettempdir()
        raise WriteError(
            f"cannot write tokens to the temporary folder {folder}: {error.strerror}; TMPDIR names another", full
        ) from error
