"""The weights that come with this project's packages, and which of them are of a config."""

from pathlib import Path

from mmengine.config import Config

import quadtree_ssm.models
import ssm_train
import tree_ssm.models
from ssm_core.shipped import FOLDER, ShippedWeights, read_shipped
from ssm_train.compat.shipped import SHIPPED

OF_TASKS = Path(ssm_train.__file__).with_name(FOLDER)  # of whole models, with their heads


def shipped_weights() -> tuple[ShippedWeights, ...]:
    """All weights that come with the packages: those of both families, then those of whole detectors and segmentors."""
    return (*quadtree_ssm.models.SHIPPED, *tree_ssm.models.SHIPPED, *read_shipped(OF_TASKS))


def shipped_with(cfg: Config) -> ShippedWeights | None:
    """The weights that come with the packages for a config; None if there are none.

    Args:
        cfg: the config. It is one of those that come with the packages, and not one that inherits from them.
    """
    if cfg.filename is None:
        return None
    file = Path(cfg.filename).resolve()
    return next((row for row in shipped_weights() if (SHIPPED / f"{row.config}.py").resolve() == file), None)
