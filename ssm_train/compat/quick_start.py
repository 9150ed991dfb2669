"""Less to wait for at the start of every command."""

import importlib
import importlib.util
import sys


def import_optimizers() -> None:
    """Import mmengine's optimizers without transformers, of which it would register one.

    Importing transformers and all that it looks for takes longer than the rest of a command's start. Its optimizer has
    a full path all the same, ``type="transformers.Adafactor"``, and torch's is registered as ``TorchAdafactor``.
    """
    present = "transformers" in sys.modules or "mmengine.optim" in sys.modules
    if present or importlib.util.find_spec("mmengine") is None:
        return
    sys.modules["transformers"] = None  # what Python takes for a package that is not there
    try:
        importlib.import_module("mmengine.optim")
    finally:
        del sys.modules["transformers"]
