"""The files for which a new run must not begin in a folder. This needs no torch, so that a command says it at once."""

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path

from ssm_core.errors import ConfigError, DataError, listed
from ssm_train.runtime.curve_files import CURVES, read_curves

# Names of the files that runs save: states, which can be resumed, and the best weights, which cannot.
STATE = re.compile(r"(epoch|iter|state)_[0-9]+\.pth")
BEST = re.compile(r"best_.+\.pth")
MARKER = "run.json"  # says which run the folder belongs to
LOCK = ".lock"  # in a locked folder; it names the host and the process that lock it
_SHOWN = 3  # names in a message


def occupants(folder: Path) -> list[str]:
    """Names of the files for which a new run must not begin in a folder: checkpoints, and curves with a result."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:  # there is no such folder
        return []
    found = [name for name in names if STATE.fullmatch(name) or BEST.fullmatch(name)]
    if CURVES in names:
        try:
            found += [CURVES] * bool(read_curves(folder)["val"])
        except DataError:  # it may have been the curves of a run
            found.append(CURVES)
    return found


def occupied(folder: Path, names: list[str]) -> ConfigError:
    """The error about a folder that has the files of a run.

    Args:
        folder: the folder.
        names: see :func:`occupants`.
    """
    return ConfigError(
        f"{folder} has the files of a run ({listed(names, _SHOWN)}): go on with it by --resume, replace it "
        "by --overwrite, begin another one beside it by --fresh, or name another --work-dir"
    )


def check_vacant(folder: Path) -> None:
    """Raise if a folder has the files of a run that has ended.

    A folder where a run is going on, or where ``--fresh`` made others, passes: :mod:`.work_folder` says what is wrong.

    Raises:
        ConfigError: see :func:`occupied`.
    """
    names = occupants(folder)
    if names and not _is_locked(folder / LOCK) and not any(folder.glob(f"run_*/{MARKER}")):
        raise occupied(folder, names)


def _is_locked(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return os.path.islink(path)
