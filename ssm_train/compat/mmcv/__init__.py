"""mmcv without its compiled operators: torchvision's operators take their place.

mmcv's wheels on PyPI have no operators. Compiling them takes long and fails with recent versions of torch. Without them
``mmdet.models`` cannot be imported. :func:`install` adds a last resort to Python's import system: an import of
``mmcv._ext`` that finds no compiled module gets :mod:`.operators` instead. If mmcv is compiled, Python finds the
compiled module first and never runs the code here.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from ssm_core.errors import UserError

EXTENSION = "mmcv._ext"


class MissingOperatorError(UserError):
    """A model called an operator of mmcv that is not compiled and has no stand-in."""

    def __init__(self, name: str):
        super().__init__(
            f"mmcv's operator {name} was called, which is not compiled here and has no stand-in in torchvision: choose "
            "a model without it, or compile mmcv with `MMCV_WITH_OPS=1 pip install --no-binary onedl-mmcv onedl-mmcv`"
        )


class _Fallback:
    """The finder and the loader of the stand-in, as :mod:`importlib` defines the two."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Fallback, origin="torchvision") if name == EXTENSION else None

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        from ssm_train.compat.mmcv import operators  # imported late because it needs torchvision

        vars(module).update({name: getattr(operators, name) for name in operators.__all__})
        module.__getattr__ = _missing


def install() -> None:
    """Let ``mmcv._ext`` be imported where mmcv is not compiled. Calling this again has no effect."""
    if _Fallback not in sys.meta_path:
        sys.meta_path.append(_Fallback)  # last in the list, so that Python finds a compiled module first


def _missing(name: str) -> Callable[..., NoReturn]:
    """A stand-in for an operator without one, which raises when it is called.

    mmcv looks all of its operators up when it is imported, but models call only a few of them.
    """
    if name.startswith("__"):
        raise AttributeError(name)

    def operator(*args: Any, **options: Any) -> NoReturn:
        raise MissingOperatorError(name)

    return operator
