"""Importing the modules of a user's own that a config names in ``custom_imports``."""

import logging
import pkgutil
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from ssm_core.errors import ConfigError, nearest
from ssm_train.runtime.config_values import check_keys, check_value

KEY = "custom_imports"
_KEYS = {"imports": str | list[str] | None, "allow_failed_imports": bool}


def import_modules(settings: Any, config: Path) -> None:
    """Import the modules that a config names.

    Args:
        settings: its ``custom_imports``, as mmengine has them; None for none.
        config: the config file.

    Raises:
        ConfigError: the settings are wrong, or a module cannot be imported, unless ``allow_failed_imports`` is set.
    """
    check_value(KEY, settings, dict | None)
    if not settings:
        return
    check_keys(KEY, settings, _KEYS)
    imports = settings.get("imports") or []
    for name in [imports] if isinstance(imports, str) else imports:
        try:
            _import(name, config)
        except ConfigError as error:
            if not settings.get("allow_failed_imports"):
                raise
            print_log(f"{error}; the config allows for that", logger="current", level=logging.WARNING)


def _import(name: str, config: Path) -> None:
    said = f"the config {config} imports {name!r} ({KEY}.imports), "
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):  # a module that this one imports
            raise ConfigError(f"{said}which cannot be imported: {_in_words(error)}") from error
        beside = config.parent / f"{name.replace('.', '/')}.py"
        if beside.is_file():
            raise ConfigError(
                f"{said}and Python does not look where {beside} is: put PYTHONPATH={config.parent} before the command"
            ) from error
        raise ConfigError(
            f"{said}and there is no such module{nearest(name, _modules_beside(name))}: correct the name, or set "
            "PYTHONPATH to the folder that it is in"
        ) from error
    except Exception as error:  # whatever a user's module raises
        raise ConfigError(f"{said}which cannot be imported: {_in_words(error)}") from error


def _modules_beside(name: str) -> list[str]:
    """The modules that may have been meant: those of the same package."""
    package = name.rpartition(".")[0]
    if not package:
        return [module.name for module in pkgutil.iter_modules()]
    places = getattr(sys.modules.get(package), "__path__", ())
    return [f"{package}.{module.name}" for module in pkgutil.iter_modules(places)]


def _in_words(error: Exception) -> str:
    """An error with the place in the code that raised it."""
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
    else:
        last = traceback.extract_tb(error.__traceback__)[-1]
        file, line = last.filename, last.lineno
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({file}, line {line})"
