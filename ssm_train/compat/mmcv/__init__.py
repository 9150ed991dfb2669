"""mmcv without its compiled operators: torchvision's take their place.

mmcv's wheels on PyPI have no operators, compiling them takes long and fails with recent versions of torch, and without
them ``mmdet.models`` cannot be imported. :func:`install` adds a last resort to Python's import system: whoever imports
``mmcv._ext`` where no compiled one is found gets :mod:`.operators` in its place. A compiled mmcv is found first, and
nothing of this module is then ever run.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from ssm_core.errors import UserError

EXTENSION = "mmcv._ext"


class MissingOperatorError(UserError):
    """An operator of mmcv was called that is neither compiled nor has a stand-in."""

    def __init__(self, name: str):
        super().__init__(
            f"mmcv's operator {name} was called, which is not compiled here and has no stand-in in torchvision: choose "
            "a model without it, or compile mmcv with `MMCV_WITH_OPS=1 pip install --no-binary onedl-mmcv onedl-mmcv`"
        )


class _Fallback:
    """Finds and loads the stand-in for the compiled module: a finder and a loader in Python's sense."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Fallback, origin="torchvision") if name == EXTENSION else None

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        from ssm_train.compat.mmcv import operators  # with torchvision, which only tasks with mmcv need

        vars(module).update({name: getattr(operators, name) for name in operators.__all__})
        module.__getattr__ = _missing


def install() -> None:
    """Let ``mmcv._ext`` be imported where mmcv is not compiled; of no effect elsewhere, nor when called again."""
    if _Fallback not in sys.meta_path:
        sys.meta_path.append(_Fallback)  # last, so that a compiled module is found before it


def _missing(name: str) -> Callable[..., NoReturn]:
    """What stands for any other operator: mmcv asks for all of them when it is imported, and models call few."""
    if name.startswith("__"):
        raise AttributeError(name)

    def operator(*args: Any, **options: Any) -> NoReturn:
        raise MissingOperatorError(name)

    return operator
