"""mmseg's base configs, whichever distribution mmseg was installed from."""

import importlib.util


def accept_any_distribution() -> None:
    """Let configs inherit from ``mmseg::`` if mmseg comes from another distribution than ``mmsegmentation``.

    mmengine asks for the distribution of that name, but the one on PyPI is named ``onedl-mmsegmentation``. mmengine
    also accepts a module's own name, and finds it in both cases.
    """
    if importlib.util.find_spec("mmengine") is None:
        return
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE["mmseg"] = "mmseg"
