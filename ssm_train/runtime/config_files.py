"""Where config files are: a user's own, and those that come with the package."""

import itertools
import os
from pathlib import Path

from ssm_core.errors import ConfigError, nearest
from ssm_train.compat.shipped import SHIPPED

_FOLDERS = 100  # that are looked into for a name that was meant; the nearest folder may be that of all files


def is_config(name: str) -> bool:
    """Whether a word of a command line names a config, rather than a checkpoint or a model of timm's.

    Args:
        name: the word.
    """
    return name.endswith(".py") or _shipped(name) is not None


def find_config(name: str | Path) -> Path:
    """The config file that a command line names.

    Args:
        name: a path, or the name of a config that comes with the package, relative to their folder, such as
            ``quadmamba/quadmamba-tiny_image-folder``; with or without ``.py``. A file of this path comes first.

    Raises:
        ConfigError: there is none; the message has the nearest that there is.
    """
    if os.path.isfile(name):  # unlike Path.is_file, it takes names that no file can have
        return Path(name)
    path = _shipped(str(name))
    if path is None:
        raise ConfigError(f"there is no config {name}{nearest(str(name), [*_around(Path(name)), *shipped_names()])}")
    return path


def find_study(name: str | Path) -> Path:
    """The file of a study that a command line names, as :func:`find_config` finds configs.

    Args:
        name: a path, or the name of one that comes with the package, such as ``studies/fashion-mnist.yaml``.

    Raises:
        ConfigError: there is no such file; the message has the nearest that comes with the package.
    """
    shipped = SHIPPED / name
    if os.path.isfile(name) or not os.path.isfile(shipped):
        if not os.path.exists(name):
            known = [path.relative_to(SHIPPED).as_posix() for path in sorted(SHIPPED.glob("studies/*.yaml"))]
            raise ConfigError(f"there is no study {name}{nearest(str(name), known)}")
        return Path(name)
    return shipped


def check_base(path: Path, base: str) -> None:
    """Raise if a config inherits from a file that is not there.

    Args:
        path: the config.
        base: an entry of its ``_base_``. Those of other packages are not looked for.

    Raises:
        ConfigError: there is no such file; the message has the nearest that there is.
    """
    package, _, name = base.rpartition("::")
    if package not in ("", "ssm_train"):
        return
    folder = SHIPPED if package else path.parent
    if not os.path.isfile(folder / name):
        begin = f"{package}::" if package else ""
        known = [f"{begin}{file.relative_to(SHIPPED).as_posix()}" for file in SHIPPED.rglob("*.py")] if package else []
        known += [] if package else [os.path.relpath(file, folder) for file in _around(folder / name)]
        raise ConfigError(f"{path} inherits from {base}, which is no file{nearest(base, known)}")


def shipped_names() -> list[str]:
    """The names of all configs that come with the package and can be trained."""
    paths = (path.relative_to(SHIPPED) for path in SHIPPED.rglob("*.py"))
    return sorted(path.with_suffix("").as_posix() for path in paths if "_base_" not in path.parts)


def _shipped(name: str) -> Path | None:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    candidates = (SHIPPED / name, SHIPPED / f"{name}.py")
    return next((path for path in candidates if path.suffix == ".py" and os.path.isfile(path)), None)


def _around(path: Path) -> list[str]:
    """Config files that may have been meant by a path that does not exist: those in the nearest folder that exists."""
    folder = path.parent
    while not os.path.isdir(folder):
        folder = folder.parent
    if folder == Path():
        return []
    found = []
    for place, folders, files in itertools.islice(os.walk(folder), _FOLDERS):
        folders.sort()
        if "_base_" not in Path(place).parts:
            found += [os.path.join(place, name) for name in files if name.endswith(".py")]
    return sorted(found)
