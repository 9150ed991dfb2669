"""Indices of annotation files: a large file is read once on a machine, and mapped by all processes after that.

The index of ``instances.json`` is the file ``.instances.json.<settings>.index`` beside it. It holds the arrays of
:class:`.Columns`, so that reading it runs no code, and what it was made from. If anything of that has changed, the
index is made anew.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from glob import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

from ssm_core.errors import DataError
from ssm_core.writing import WriteError, readable
from ssm_train.data.array_file import ArrayFile, write_arrays
from ssm_train.data.source_mark import SourceMark
from ssm_train.runtime import folder_lock
from ssm_train.runtime.files import check_folder, make_folder, write_atomically
from ssm_train.tasks.detection.annotations import BadAnnotations, CocoAnnotations, ReadFile, read_annotations, read_file
from ssm_train.tasks.detection.columns import Columns
from ssm_train.tasks.detection.image_names import mark_of_names
from ssm_train.tasks.detection.tally import Finding, say

FROM = 8_000_000  # bytes of an annotation file that takes about half a second to read
PATIENCE = 1800.0  # seconds that a process waits for another one to read a file
_FORMAT = 1  # of the index and of what is understood of a file; another number makes all of them anew
_LOOK = 0.2  # seconds between two looks at a lock


@dataclass(frozen=True)
class Indexing:
    """Which annotation files get an index, and where.

    Attributes:
        smallest: size of the smallest file in bytes; None for no file.
        folder: where indices are. By default it is the folder of the annotation file, or ``tree-ssm/annotations`` in
            the user's cache where that cannot be written to.
        patience: seconds to wait for another process that is reading the file.
    """

    smallest: int | None = FROM
    folder: str | None = None
    patience: float = PATIENCE


def open_annotations(
    path: str | Path,
    bad_annotations: BadAnnotations = "skip",
    folder: str | None = None,
    masks: bool = False,
    indexing: Indexing = Indexing(),  # it cannot change
) -> CocoAnnotations:
    """The content of an annotation file, as :func:`read_annotations` has it, from an index if the file is large.

    What that function says of the file is said each time. The first process makes the index while others wait for it.

    Args:
        path: see :func:`read_annotations`, as for the next three.
        bad_annotations: ``"skip"`` or ``"raise"``.
        folder: where the images are.
        masks: whether only objects with a mask are of use.
        indexing: which files get an index.

    Raises:
        DataError: see :func:`read_annotations`.
    """
    if indexing.smallest is None or not os.path.isfile(path) or os.path.getsize(path) < indexing.smallest:
        return read_annotations(path, bad_annotations, folder, masks)
    return _AnnotationFile(path, bad_annotations, folder, masks, indexing).content()


class _AnnotationFile:
    """A file with an index. The arguments are those of :func:`open_annotations`."""

    def __init__(
        self, path: str | Path, bad_annotations: BadAnnotations, folder: str | None, masks: bool, indexing: Indexing
    ):
        self.path, self.folder, self.indexing = Path(path), folder, indexing
        self.bad_annotations, self.masks = bad_annotations, masks
        images = folder and os.path.relpath(os.path.realpath(folder), os.path.realpath(self.path.parent))
        self.settings = {"bad_annotations": bad_annotations, "masks": masks, "images": images}
        self.versions = {"format": _FORMAT, "pycocotools": version("pycocotools")}
        self.logger = MMLogger.get_current_instance()
        self.refused: dict[Path, str] = {}  # indices that cannot be used, and why
        self.seen: dict[Path, tuple[int, int] | None] = {}  # which file an index was when it was opened

    def content(self) -> CocoAnnotations:
        """The content, from an index that was there, or from one that is made now."""
        places = self._places()
        for place in places:
            if (found := self._opened(place)) is not None:
                return found
        refusals = []
        for place in places:
            try:
                make_folder(place.parent)
                check_folder(place.parent)
                return self._made_once(place)
            except WriteError as error:
                refusals.append(str(error))
        self._say_no_index("; ".join(refusals))
        return self._read().content

    def _places(self) -> list[Path]:
        """Where the index can be, the best place first."""
        own = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]
        stem = self.path.name[:150]
        elsewhere = hashlib.sha256(os.fsencode(os.path.abspath(self.path))).hexdigest()[:12]
        if self.indexing.folder is not None:
            return [Path(self.indexing.folder) / f".{stem}.{elsewhere}.{own}.index"]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tree-ssm", "annotations")
        return [self.path.with_name(f".{stem}.{own}.index"), cache / f".{stem}.{elsewhere}.{own}.index"]

    def _opened(self, place: Path) -> CocoAnnotations | None:
        """The content from an index; None if there is none that can be used."""
        self.seen[place] = _identity(place)
        try:
            file = ArrayFile(place)
            if reason := self._difference(file.notes):
                raise DataError(f"{self.path} {reason}")
            notes = file.notes
            found = CocoAnnotations(Columns(file), notes["categories"], notes["classes"], self.path)
            findings = [Finding(*finding) for finding in notes["findings"]]
        except FileNotFoundError:
            return None
        except (OSError, DataError, LookupError, TypeError, ValueError) as error:
            self.refused[place] = str(error)
            return None
        self.logger.info(f"took the annotations of {self.path} from its index {place}")
        say(findings, self.path)
        return found

    def _difference(self, notes: dict[str, Any]) -> str:
        """What has changed since an index was made, as words that follow the name of the annotation file."""
        if notes["versions"] != self.versions:
            return "was read by another version of this program or of pycocotools"
        if notes["settings"] != self.settings:
            return "was read with other settings"
        if reason := SourceMark(*notes["source"]).difference(self.path):
            return reason
        if self.folder is None:
            return ""
        for place, mark in notes["folders"].items():
            if mark_of_names(self.folder, place) != mark:
                return f"was read when {os.path.join(self.folder, place)} had other files"
        for name, mark in notes["measured"].items():
            if _mark_of_image(self.folder, name) != mark:
                return f"was read when the image {os.path.join(self.folder, name)} was another one"
        return ""

    def _made_once(self, place: Path) -> CocoAnnotations:
        """The content from an index that this process makes, or another one while this one waits.

        Raises:
            WriteError: the folder cannot be written to.
        """
        path, end, other = place.with_suffix(".lock"), time.monotonic() + self.indexing.patience, ""
        unlocked = f"the file system of {place.parent} has no locks: several processes may read {self.path}"
        while True:
            lock = folder_lock.attempt(path, unlocked)
            try:
                # Another process may have made it since the last look.
                if _identity(place) != self.seen[place] and (found := self._opened(place)) is not None:
                    return found
                if lock is not None:
                    if other:
                        self.logger.warning(f"{other} ended without an index of {self.path}, which is read here now")
                    return self._made(place)
            finally:
                if lock is not None:
                    with suppress(OSError):
                        path.unlink()
                    folder_lock.release(lock)
            if not other:
                other = "process {1} on {0}".format(*folder_lock.holder(path))
                self.logger.info(
                    f"waiting for the index of {self.path}, which {other} makes, for at most "
                    f"{self.indexing.patience:g} s"
                )
            if time.monotonic() > end:
                self.logger.warning(
                    f"{other} has not made the index of {self.path} in {self.indexing.patience:g} s, so the file is "
                    f"read here as well (if that process has died, delete {path})"
                )
                return self._read().content
            time.sleep(_LOOK)

    def _made(self, place: Path) -> CocoAnnotations:
        """Make the index, and return the content from it."""
        if reason := self.refused.get(place):
            self.logger.warning(f"the index {place} is made anew: {reason}")
        for left in place.parent.glob(f".{escape(place.name)}.*.tmp"):  # of processes that were killed
            left.unlink(missing_ok=True)
        size = readable(os.path.getsize(self.path))
        self.logger.info(f"reading {self.path} ({size}) once, for its index {place}")
        read = self._read()
        try:
            self._write(read, place)
            columns = Columns(ArrayFile(place))
        except (WriteError, OSError, DataError) as error:
            self._say_no_index(str(error))
            return read.content
        return replace(read.content, columns=columns)

    def _say_no_index(self, reason: str) -> None:
        self.logger.warning(f"{self.path} has no index and is read by every process, at every start: {reason}")

    def _read(self) -> ReadFile:
        return read_file(self.path, self.bad_annotations, self.folder, self.masks)

    def _write(self, read: ReadFile, place: Path) -> None:
        notes = {
            "versions": self.versions,
            "settings": self.settings,
            "source": read.mark,
            "folders": read.folders,
            "measured": {name: _mark_of_image(self.folder or "", name) for name in read.measured},
            "findings": read.findings,
            "categories": read.content.categories,
            "classes": read.content.classes,
        }
        # A power cut can leave a part of the file, which its digest shows.
        write_atomically(place, lambda file: write_arrays(file, read.content.columns.arrays, notes), durable=False)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _mark_of_image(folder: str, name: str) -> list[int] | None:
    try:
        found = os.stat(os.path.join(folder, name))
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns]
