"""The warnings of several runs, each told once: nobody reads the logs of runs that succeeded."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_MOST = 30  # distinct warnings that are told
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # which FORCE_COLOR writes into a file, too
# Lines of mmengine's logger, whose errors name a place in the code, and of Python's warnings.
_LOGGED = re.compile(r"\d\d/\d\d \d\d:\d\d:\d\d - .+? - (?:WARNING|ERROR - .+? - \S+ - \d+) - (?P<text>.+)")
_WARNED = re.compile(r"\S.*?:\d+: (?P<text>\w*Warning: .+)")


@dataclass
class Warned:
    """A warning that runs gave.

    Attributes:
        text: its first line, as the first run has it.
        log: of the first run.
        runs: how many gave it.
    """

    text: str
    log: Path
    runs: int = 0


def warnings_of(log: Path) -> Iterator[str]:
    """The first lines of the warnings in what a run printed, each of them once.

    Args:
        log: the file; nothing is yielded of one that is not there.
    """
    try:
        lines = _COLOURS.sub("", log.read_text(errors="replace")).splitlines()
    except FileNotFoundError:
        return
    found = (_LOGGED.fullmatch(line) or _WARNED.fullmatch(line) for line in lines)
    yield from dict.fromkeys(match["text"].strip() for match in found if match)


def distinct(logs: Sequence[Path]) -> list[Warned]:
    """The warnings of several runs. Those that differ in the name of the run's own folder alone are one.

    Args:
        logs: a file of each run, in the run's folder.
    """
    known: dict[str, Warned] = {}
    for log in logs:
        for own in {_without_folder(text, log.parent): text for text in warnings_of(log)}.items():
            known.setdefault(own[0], Warned(own[1], log)).runs += 1
    return list(known.values())


def described(logs: Sequence[Path]) -> list[str]:
    """A line for every distinct warning of several runs, with a heading; none if there was no warning.

    Args:
        logs: see :func:`distinct`.
    """
    found = distinct(logs)
    if not found:
        return []
    lines = [f"- {own.text} ({own.runs} of {len(logs)} runs, first in {own.log})" for own in found[:_MOST]]
    if len(found) > _MOST:
        lines.append(f"- and {len(found) - _MOST} more, in the logs")
    return ["Warnings of the runs:", *lines]


def _without_folder(text: str, folder: Path) -> str:
    for name in (str(folder.resolve()), str(folder)):
        text = text.replace(name, "…")
    return text
