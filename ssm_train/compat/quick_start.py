"""A faster start of every command: mmengine without transformers."""

import importlib
import importlib.util
import sys


def import_optimizers() -> None:
    """Import mmengine's optimizers while transformers is hidden, because mmengine would import it to register one.

    Importing transformers takes longer than the rest of a command's start. Its optimizer stays available by its full
    path, ``type="transformers.Adafactor"``. torch's optimizer of that name is registered as ``TorchAdafactor``.
    """
    present = "transformers" in sys.modules or "mmengine.optim" in sys.modules
    if present or importlib.util.find_spec("mmengine") is None:
        return
    sys.modules["transformers"] = None  # Python takes such an entry for a package that is not installed
    try:
        importlib.import_module("mmengine.optim")
    finally:
        del sys.modules["transformers"]
