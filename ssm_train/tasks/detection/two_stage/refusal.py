"""Options of mmdet that the fast heads do not have."""

from collections.abc import Mapping

from ssm_core.errors import ConfigError


def refuse(unsupported: Mapping[str, bool], where: str) -> None:
    """Refuse options of mmdet's that the fast heads do not have.

    Args:
        unsupported: names of options, with whether they are set.
        where: what has the options.

    Raises:
        ConfigError: one of them is set.
    """
    found = [name for name, is_set in unsupported.items() if is_set]
    if found:
        raise ConfigError(
            f"the fast heads do not support {' and '.join(found)} of {where}: use mmdet's RPNHead, StandardRoIHead or "
            "CascadeRoIHead, and MaskRCNN, FasterRCNN or CascadeRCNN"
        )
