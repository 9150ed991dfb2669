"""Rows of tokens in a temporary file that is mapped into memory, so that there may be more of them than fit there."""

import errno
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np

from ssm_core.writing import WriteError


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
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="tokens-")  # noqa: SIM115  # it lives as long as the store
        self._ends = array("q", [0])
        self._numbers: np.ndarray | None = None

    def append(self, tokens: Sequence[int], responses: Sequence[tuple[int, int]], number: int, line: int = 0) -> None:
        """Append a row. The arguments are the attributes of a :class:`TokenRow`.

        Raises:
            WriteError: the disk is full.
        """
        flat = [place for span in responses for place in span]
        record = np.array([number, line, len(responses), *flat, *tokens], dtype=np.int32)
        with _explained():
            self._file.write(record.tobytes())
        self._ends.append(self._ends[-1] + len(record))

    def __getstate__(self) -> dict[str, Any]:
        with _explained():
            self._file.flush()
        return {"path": f"/proc/{os.getpid()}/fd/{self._file.fileno()}", "ends": self._ends}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._file, self._ends, self._numbers = open(state["path"], "rb"), state["ends"], None  # noqa: SIM115

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> TokenRow:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no row {index} among {len(self)}")
        if self._numbers is None:
            with _explained():
                self._file.flush()
            self._numbers = np.memmap(self._file, dtype=np.int32, mode="r")
        record = self._numbers[self._ends[index] : self._ends[index + 1]]
        number, line, count = record[:3].tolist()
        spans = record[3 : 3 + 2 * count].reshape(count, 2).tolist()
        return TokenRow(np.asarray(record[3 + 2 * count :]), [(first, end) for first, end in spans], number, line)


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
