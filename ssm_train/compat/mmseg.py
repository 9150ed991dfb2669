"""mmseg's base configs, whichever distribution mmseg was installed from."""

from mmengine.config.utils import MODULE2PACKAGE


def accept_any_distribution() -> None:
    """Let configs inherit from ``mmseg::`` if mmseg comes from another distribution than ``mmsegmentation``.

    mmengine asks for the distribution of that name, but the one on PyPI is named ``onedl-mmsegmentation``. mmengine
    also accepts a module's own name, and finds it in both cases.
    """
    MODULE2PACKAGE["mmseg"] = "mmseg"
