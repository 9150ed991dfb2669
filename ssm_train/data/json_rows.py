"""Rows of JSON files, read one after the other, so that a file may be larger than the memory.

What a file holds is seen from its content, because names mislead: many a ``.json`` has one row a line.

- JSON lines: one value a line. Lines end at a line feed alone, since texts may hold U+2028 and its like. A line that is
  no JSON is a faulty row, and the rows after it are read.
- A list of rows, rows one after the other in any layout, or an object that has the list under a key such as ``data``.
"""

import io
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, TextIO

from ssm_core.errors import DataError
from ssm_train.data.faults import Unusable
from ssm_train.data.opened import DAMAGED, open_data

_BOM = b"\xef\xbb\xbf"
_WRAPPERS = ("data", "rows", "examples", "instances", "train")  # keys under which an object holds the list of rows
_WINDOW = 2**20  # characters that are read at a time
_LONGEST = 2**26  # largest row in characters
_LOOK = 64  # lines that are looked at to see what a file holds
_LOOK_BYTES = 2**20  # of each of these lines
_TAIL = 16  # characters at the end of a window that may be half a token of JSON


class JsonRow(NamedTuple):
    """A row of a file.

    Attributes:
        number: its place among the rows, from 0.
        line: the line on which it begins, from 1.
        value: its content, or what is wrong with it.
    """

    number: int
    line: int
    value: Any | Unusable


def json_rows(path: str | Path) -> Iterator[JsonRow]:
    """Read the rows of a file one by one.

    Args:
        path: the file, in UTF-8 with or without a byte order mark. It may be packed, see :func:`.open_data`.

    Raises:
        DataError: the file is missing or unreadable, or is not JSON. In JSON lines a faulty line is a faulty row
            instead.
    """
    try:
        with open_data(path) as file:
            has_lines = _has_lines(file)
        with open_data(path) as file:
            if has_lines:
                yield from _lines(file)
                return
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n")
            for number, (line, value) in enumerate(_Values(text, path).rows()):
                yield JsonRow(number, line, value)
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}") from None
    except (OSError, UnicodeDecodeError, *DAMAGED) as error:
        raise DataError(f"cannot read the data file {path}: {error}") from error


def _has_lines(file: BinaryIO) -> bool:
    """Whether a file has one value a line. It has if its first line is a value and another line follows.

    If the first line is faulty, the majority of the next lines decides.
    """
    pieces = (piece.removeprefix(_BOM) for piece in iter(lambda: file.readline(_LOOK_BYTES), b""))
    lines = islice((piece for piece in pieces if piece.strip()), _LOOK)
    first = next(lines, b"")
    second = next(lines, b"") if first.endswith(b"\n") else b""
    if not second or _is_value(first):
        return bool(second)
    good = [_is_value(line) for line in chain([second], lines)]
    return 2 * sum(good) > len(good)


def _is_value(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(file: BinaryIO) -> Iterator[JsonRow]:
    number = 0
    for place, line in enumerate(iter(lambda: file.readline(_LONGEST), b""), 1):
        text = line.removeprefix(_BOM) if place == 1 else line
        value: Any
        if len(line) == _LONGEST and not line.endswith(b"\n"):
            value = Unusable(f"has {_LONGEST} bytes or more")
            while line and not line.endswith(b"\n"):
                line = file.readline(_LONGEST)
        elif not text.strip():
            continue
        else:
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                value = Unusable("is not valid JSON", getattr(error, "msg", None) or str(error))
        yield JsonRow(number, place, value)
        number += 1


class _Values:
    """The rows of a file in which a value may be anywhere. Only a window of the file is in memory.

    Args:
        file: the file.
        path: its name for messages.
    """

    def __init__(self, file: TextIO, path: str | Path) -> None:
        self.file, self.path = file, path
        self.text, self.at, self.line, self.ended = "", 0, 1, False
        self.decoder = json.JSONDecoder()

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Every row and the line on which it begins."""
        while start := self._peek():
            if start == "[":
                yield from self._list()
            elif start == "{":
                yield from self._object()
            else:
                self._fail(f"it begins with {start!r}, and rows begin with '[' or '{{'")

    def _list(self) -> Iterator[tuple[int, Any]]:
        self._take("[")
        if self._peek() == "]":
            return self._take("]")
        while True:
            self._peek()
            yield self.line, self._value()
            if self._peek() == "]":
                return self._take("]")
            self._take(",")

    def _object(self) -> Iterator[tuple[int, Any]]:
        """An object is a row, unless it holds a list under one of the keys of wrappers."""
        line, fields, wraps = self.line, {}, False
        self._take("{")
        while self._peek() != "}":
            if fields or wraps:
                self._take(",")
            if self._peek() != '"':
                self._fail("Expecting property name enclosed in double quotes")
            key = self._value()
            self._take(":")
            if key in _WRAPPERS and self._peek() == "[":
                wraps = True
                yield from self._list()
            else:
                self._peek()
                fields[key] = self._value()
        self._take("}")
        if not wraps:
            yield line, fields

    def _peek(self) -> str:
        """The next character that is no blank, to which the place moves; an empty text at the end."""
        while True:
            rest = self.text[self.at : self.at + _TAIL].lstrip(" \t\r\n")
            if rest:
                self._move(self.text.index(rest[0], self.at))
                return rest[0]
            self._move(min(self.at + _TAIL, len(self.text)))
            if self.at == len(self.text):
                if self.ended:
                    return ""
                self._read()

    def _take(self, expected: str) -> None:
        if self._peek() != expected:
            self._fail(f"Expecting {expected!r}")
        self._move(self.at + 1)

    def _value(self) -> Any:
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut_off = error.pos >= len(self.text) - _TAIL or error.msg.startswith("Unterminated string")
                if self.ended or not cut_off:
                    self._move(error.pos)
                    self._fail(error.msg)
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or too deep a nesting
                self._fail(str(error))
            else:
                if end < len(self.text) or self.ended:  # a number at the end of a window may go on
                    self._move(end)
                    return value
            self._read()

    def _read(self) -> None:
        rest = self.text[self.at :]
        if len(rest) > _LONGEST:
            self._fail(f"a row has more than {_LONGEST} characters")
        more = self.file.read(max(_WINDOW, len(rest)))
        self.text, self.at, self.ended = rest + more, 0, not more

    def _move(self, place: int) -> None:
        self.line += self.text.count("\n", self.at, place)
        self.at = place

    def _fail(self, words: str) -> NoReturn:
        raise DataError(f"{self.path} is not valid JSON: {words} (line {self.line})")
