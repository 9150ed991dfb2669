"""The lock of mmengine's loggers, visualizers, message hubs and scopes, given back after an error.

mmengine takes the lock while it makes one of them, and keeps it if that fails: because a package is missing, or because
a file of the log cannot be written. From then on, every other thread would wait for it without end.
"""

import functools
from collections.abc import Callable
from typing import Any

from mmengine.utils import manager


def give_back_after_errors() -> None:
    """Let mmengine give back its lock, whatever is raised. A second call changes nothing."""
    for name in ("get_instance", "get_current_instance"):
        method = getattr(manager.ManagerMixin, name).__func__
        if not hasattr(method, "__wrapped__"):
            setattr(manager.ManagerMixin, name, classmethod(_giving_back(method)))


def _giving_back(method: Callable) -> Callable:
    @functools.wraps(method)
    def giving_back(cls: type, *arguments: Any, **options: Any) -> Any:
        try:
            return method(cls, *arguments, **options)
        except BaseException:
            manager._release_lock()
            raise

    return giving_back
