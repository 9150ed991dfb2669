"""The packages whose configs a config can inherit from, by ``_base_ = "PACKAGE::PATH"``."""

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from ssm_train.compat.shipped import OURS, SHIPPED


def accept_packages() -> None:
    """Let configs inherit from ``ssm_train::``, and from ``mmseg::`` whichever distribution mmseg was installed from.

    mmengine has a list of packages with the name of the distribution of each, and the distribution of mmseg on PyPI is
    named ``onedl-mmsegmentation``. mmengine also accepts a module's own name. This project cannot be in the list: for
    those that are, mmengine imports modules which this project does not have.
    """
    MODULE2PACKAGE["mmseg"] = "mmseg"
    Config._get_cfg_path = staticmethod(_path_of)


def known_packages() -> set[str]:
    """The packages that may stand before ``::``."""
    return {OURS.removesuffix("::"), *MODULE2PACKAGE}


_path_of_others = Config._get_cfg_path


def _path_of(base: str, filename: str) -> tuple[str, str | None]:
    """The path of a base config, and the scope of what it defines. It replaces a function of mmengine."""
    if base.startswith(OURS):
        return str(SHIPPED / base.removeprefix(OURS)), None
    return _path_of_others(base, filename)
