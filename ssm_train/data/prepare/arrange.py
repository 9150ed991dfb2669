"""Linking a downloaded dataset to where the configs look for it, instead of copying it."""

from pathlib import Path

from ssm_core.errors import DataError
from ssm_core.writing import explained
from ssm_train.runtime.files import make_folder


def link(source: Path, place: Path) -> None:
    """Make ``place`` a symbolic link to ``source``, unless ``place`` exists.

    Raises:
        WriteError: the link cannot be made.
    """
    if not place.exists():
        make_folder(place.parent)
        with explained(place):
            # A link to something that is no longer there is replaced.
            place.unlink(missing_ok=True)
            place.symlink_to(source.resolve())


def arrange(names: tuple[str, ...], target: Path, source: Path | None, how: str) -> None:
    """Link the named files and folders of ``source`` into ``target``. Without a source they must be in ``target``.

    Args:
        names: the files and folders that make up the dataset, relative to its folder.
        target: folder that the configs name.
        source: folder of the downloaded files, or None.
        how: advice for the error, on how to get the files.

    Raises:
        DataError: a file or folder is missing.
    """
    folder = target if source is None else source
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise DataError(f"{folder} has no {', '.join(missing)}: {how}, and name the folder with --from")
    if source is not None and source.resolve() != target.resolve():
        for name in names:
            link(source / name, target / name)


def shorten(names: list[str], limit: int = 3) -> str:
    """The first ``limit`` names as text, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
