"""Finds image files by the names that an annotation file has for them, which may be of another computer."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

from ssm_train.data.inside import check_inside

# Files that this project writes beside annotation files, which may be where the images are.
_OWN = re.compile(r"\..+\.(?:index|lock|tmp)", re.DOTALL)


class ImageNames:
    """Finds the files that an annotation file names, which may have been written on another computer."""

    def __init__(self, folder: str | None):
        self._folder = folder
        self._listed: dict[str, tuple[set[str], dict[str, str]]] = {}

    def seen(self) -> dict[str, str]:
        """What :func:`mark_of_names` says of every sub-folder in which a name was looked for."""
        if self._folder is None:
            return {}
        return {place: _mark(names) for place, (names, _) in self._listed.items()}

    def name_of(self, written: str, source: Any) -> str | None:
        """The path of a file below the folder. If there is no such file, the path as it is written.

        Args:
            written: the name in the annotation file. It may have backslashes, be absolute, or have other letters in
                upper case than the file.
            source: the annotation file, for messages.

        Returns:
            The path; None if it would lead outside.

        Raises:
            DataError: it would lead outside of a folder that is not known.
        """
        parts = [part for part in written.replace("\\", "/").split("/") if part not in ("", ".")]
        outside = ".." in parts or "\0" in written or os.path.isabs(written) or not parts
        if not outside and (found := self._find([written])):
            return found
        after = len(parts) - parts[::-1].index("..") if ".." in parts else 0
        for start in range(after, len(parts)):
            if found := self._find(parts[start:]):
                return found
        if outside:
            return None if self._folder is not None else check_inside(written, source)
        return "/".join(parts)

    def _find(self, parts: Sequence[str]) -> str | None:
        """The path of a file, if the folder has it, perhaps with other upper-case letters."""
        place = ""
        for part in [piece for written in parts for piece in written.split("/")]:
            names, alike = self._list(place)
            own = part if part in names else alike.get(folded(part))
            if own is None:
                return None
            place = f"{place}/{own}" if place else own
        return place

    def _list(self, place: str) -> tuple[set[str], dict[str, str]]:
        """The names in a sub-folder, and the same by their folded form."""
        if place not in self._listed:
            names = set() if self._folder is None else _names_in(self._folder, place)
            self._listed[place] = names, {folded(name): name for name in sorted(names, reverse=True)}
        return self._listed[place]


def folded(name: str) -> str:
    """A name without what may differ between two file systems: the case of letters and the form of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def mark_of_names(folder: str, place: str) -> str:
    """A digest of the names in a sub-folder. If it is the same, names are found there as before.

    Args:
        folder: the folder of the images.
        place: the sub-folder; empty for the folder itself.
    """
    return _mark(_names_in(folder, place))


def _names_in(folder: str, place: str) -> set[str]:
    try:
        return {name for name in os.listdir(os.path.join(folder, place)) if not _OWN.fullmatch(name)}
    except OSError:  # it is a file, or not there
        return set()


def _mark(names: Collection[str]) -> str:
    text = "\0".join(sorted(names))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
