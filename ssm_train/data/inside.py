"""Names that come from files and command lines, which must not lead outside the folder that was given."""

import os

from ssm_core.errors import DataError, UserError


def check_inside(name: object, source: object, error: type[UserError] = DataError) -> str:
    """Return a name that stays in its folder: relative, without ``..``, and of characters that a path may have.

    Args:
        name: the name. It may have folders in it.
        source: the file or the option that it is from, for the message.
        error: the error to raise.

    Raises:
        UserError: the name leads elsewhere, or is none. It is of the type ``error``.
    """
    parts = name.replace("\\", "/").split("/") if isinstance(name, str) else [".."]
    if not isinstance(name, str) or not name.strip("./") or os.path.isabs(name) or ".." in parts or "\0" in name:
        raise error(f"{source} names {name!r}, which is no place within its folder")
    return name


def check_name(name: object, source: object, error: type[UserError] = DataError) -> str:
    """:func:`check_inside` for a name without folders in it."""
    if "/" in check_inside(name, source, error) or "\\" in str(name):
        raise error(f"{source} names {name!r}, which has a folder in it")
    return str(name)
