"""Log handlers that outlive a full disk, a deleted folder and a closed terminal."""

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import WatchedFileHandler
from pathlib import Path

from ssm_core.writing import refusal, write_error


class _Patient(logging.Handler):
    """Leaves out the lines that it cannot write, and says so once.

    Python's handlers print a traceback for every such line.

    Attributes:
        missing: number of lines that are left out since the last that was written.
    """

    missing = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        before = self.missing
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)
        if before and self.missing == before:
            self.missing = 0
            self.report(f"{self.place} is written again: {before} lines are missing")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name is logging's
        """Count a line that could not be written, and report the first."""
        error = sys.exc_info()[1]
        cause = refusal(error) if error is not None else None
        if cause is None and not isinstance(error, BrokenPipeError):
            super().handleError(record)
            return
        self.missing += 1
        if self.missing == 1:
            reason = "nobody reads it" if cause is None else write_error(cause, self.place)
            self.report(f"{reason}; lines of the log are left out")

    @property
    def place(self) -> str:
        """What is written, for messages."""
        return "the console"

    def report(self, text: str) -> None:
        """Print a line to stderr, if that can be written."""
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


class PatientFileHandler(_Patient, WatchedFileHandler):
    """A log file. It is made anew if it is deleted, and so is its folder, but not the one above."""

    def _open(self) -> object:
        Path(self.baseFilename).parent.mkdir(exist_ok=True)
        return super()._open()

    @property
    def place(self) -> str:
        """The file."""
        return self.baseFilename


class PatientConsoleHandler(_Patient, logging.StreamHandler):
    """The console."""


def make_patient(handlers: list[logging.Handler]) -> None:
    """Replace the log file and the console in a list of handlers by patient ones.

    Raises:
        OSError: the log file cannot be opened.
    """
    for number, handler in enumerate(handlers):
        patient: logging.Handler
        if isinstance(handler, _Patient) or not isinstance(handler, logging.StreamHandler):
            continue
        if isinstance(handler, logging.FileHandler):
            handler.close()
            patient = PatientFileHandler(handler.baseFilename, encoding=handler.encoding)
        else:
            patient = PatientConsoleHandler(handler.stream)
        patient.setLevel(handler.level)
        patient.setFormatter(handler.formatter)
        for condition in handler.filters:
            patient.addFilter(condition)
        handlers[number] = patient


@contextmanager
def threads_may_fail_to_write() -> Iterator[None]:
    """Print no traceback of a thread that ends because the system refused to write.

    Whoever started the thread learns of the error, and says what it means.
    """
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is None or refusal(args.exc_value) is None:
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def shorten(handlers: Iterable[logging.Handler], level: int) -> None:
    """Let the console show only records of a level and above, without long listings. Files get everything.

    Args:
        handlers: of a logger.
        level: the lowest level.
    """
    for handler in handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(max(handler.level, level))
            handler.addFilter(_is_short)


def _is_short(record: logging.LogRecord) -> bool:
    """Whether a record is shown on the console. Listings of the environment, the config and the hooks are not."""
    return record.levelno > logging.INFO or "\n" not in record.getMessage()
