"""Less to wait for at the start of every command."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType

OPTIMIZERS = "mmengine.optim"


class _WithoutTransformers:
    """A finder that has mmengine's optimizers imported as if transformers were not installed."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != OPTIMIZERS or "transformers" in sys.modules:
            return None
        sys.meta_path.remove(_WithoutTransformers)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Hiding(spec.loader)
        return spec


class _Hiding(Loader):
    """A loader that hides transformers from a module and from all that the module imports."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        sys.modules["transformers"] = None  # Python then reports the package as missing
        try:
            self.loader.exec_module(module)
        finally:
            del sys.modules["transformers"]


def install() -> None:
    """Let mmengine's optimizers be imported without transformers, of which mmengine would register one.

    Importing transformers and all that it looks for takes longer than the rest of a command's start. Its optimizer has
    a full path all the same, ``type="transformers.Adafactor"``, and torch's is registered as ``TorchAdafactor``.
    """
    if OPTIMIZERS not in sys.modules and _WithoutTransformers not in sys.meta_path:
        sys.meta_path.insert(0, _WithoutTransformers)
