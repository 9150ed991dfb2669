"""Putting a downloaded dataset where the configs look for it, without copying it."""

from pathlib import Path

from ssm_core.errors import DataError


def link(source: Path, place: Path) -> None:
    """Make ``place`` a symbolic link to ``source``, unless something is there."""
    if not place.exists():
        place.symlink_to(source.resolve())


def arrange(names: tuple[str, ...], target: Path, source: Path | None, how: str) -> None:
    """Link the named files and folders of ``source`` into ``target``; without a source they have to be there.

    Args:
        names: what the dataset consists of, relative to its folder.
        target: the folder that the configs name.
        source: the folder of the downloaded files.
        how: what to do when they are not there, for the error.

    Raises:
        DataError: one of them is in neither place.
    """
    folder = target if source is None else source
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise DataError(f"{folder} has no {', '.join(missing)}: {how}, and name the folder with --from")
    if source is not None and source.resolve() != target.resolve():
        for name in names:
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            link(source / name, place)


def shorten(names: list[str], limit: int = 3) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
