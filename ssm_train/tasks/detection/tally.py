"""What was left out of an annotation file and what was filled in, counted by kind and named once."""

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from mmengine.logging import MMLogger

from ssm_core.errors import DataError


class Finding(NamedTuple):
    """A sentence about an annotation file.

    Attributes:
        level: that of the log, such as ``logging.WARNING``.
        before: the words before the name of the file.
        after: those after it.
    """

    level: int
    before: str
    after: str


def say(findings: Iterable[Finding], path: Any) -> None:
    """Log sentences about an annotation file.

    Args:
        findings: the sentences.
        path: the file.
    """
    for finding in findings:
        MMLogger.get_current_instance().log(finding.level, f"{finding.before}{path}{finding.after}")


class Tally:
    """Counts what is wrong with the entries of an annotation file.

    Args:
        path: the file, for messages.
        stops: whether the first entry that would be left out ends the reading.

    Attributes:
        findings: what was logged.
    """

    def __init__(self, path: Any, stops: bool):
        self.path = path
        self.stops = stops
        self.findings: list[Finding] = []
        self._left_out: dict[str, dict[str, list[Any]]] = {}
        self._mended: dict[str, list[Any]] = {}

    def leave_out(self, kind: str, name: Any, fault: str) -> None:
        """Count an entry that is left out.

        Args:
            kind: ``"image"``, ``"annotation"`` or ``"category"``.
            name: its id or its place in the file.
            fault: words that follow "with".

        Raises:
            DataError: the reading is to stop.
        """
        if self.stops:
            raise DataError(
                f"{kind} {name} of {self.path} has {fault}: mend it, or set bad_annotations='skip' to leave it out"
            )
        self._left_out.setdefault(kind, {}).setdefault(fault, []).append(name)

    def mend(self, what: str, name: Any) -> None:
        """Count an entry that is used although something in it was missing or wrong.

        Args:
            what: words that follow the number of such entries.
            name: its id or its place in the file.
        """
        self._mended.setdefault(what, []).append(name)

    def check(self, kind: str, plural: str, total: int) -> None:
        """Warn of the entries of a kind that are left out. A warning is one of the findings.

        Raises:
            DataError: these are more than half.
        """
        faults = self._left_out.get(kind)
        if not faults:
            return
        count = sum(map(len, faults.values()))
        kinds = ", ".join(f"{len(names)} with {fault} (first: {names[0]})" for fault, names in faults.items())
        if 2 * count > total:
            raise DataError(
                f"{count} of {total} {plural} of {self.path} cannot be used: {kinds}; that is more than half, so mend "
                "the file"
            )
        self._say(logging.WARNING, f"{count} of {total} {plural} of ", f" are left out: {kinds}")

    def say_what_was_mended(self) -> None:
        """Log the kinds of what was missing or wrong and is used all the same, in a line."""
        if self._mended:
            kinds = "; ".join(f"{len(names)} {what} (first: {names[0]})" for what, names in self._mended.items())
            self._say(logging.INFO, "", f" is read with what it lacks filled in: {kinds}")

    def _say(self, level: int, before: str, after: str) -> None:
        self.findings.append(Finding(level, before, after))
        say(self.findings[-1:], self.path)
