"""Lines of OpenMMLab's packages and of torch that tell a user of this project nothing.

They are about packages that this project does not use, about settings that its configs choose, or about the code of
those packages. Each is named by its beginning and by the module that it comes from, so that all others are still shown.
"""

import functools
import logging
import warnings
from collections.abc import Callable
from typing import Any

from mmengine import logging as mmengine_logging

# The beginning of a warning, as a regular expression, and the module that gives it.
_SAY_NOTHING = (
    # The metric of this project is that of pycocotools. It is computed, unlike what the warning says.
    ("faster_coco_eval is not installed", r"mmdet\.evaluation\.metrics\.faster_coco_metric"),
    # The configs average over all pixels, as those of mmseg do.
    ("Default ``avg_non_ignore`` is False", r"mmseg\.models\.losses\.cross_entropy_loss"),
    # It asks for a single output where the config has two. Both are right, and documented.
    ("For binary segmentation, we suggest using", r"mmseg\.models\.decode_heads\.decode_head"),
    # A box that ends at the edge of the image counts as outside. The picture is right.
    ("Warning: The (bbox|polygon) is out of bounds", r"mmengine\.visualization\.visualizer"),
    # A line of this project says which figures could not be measured.
    ("Mean of empty slice", r"mmseg\.evaluation\.metrics\.iou_metric"),
    # A line of this project says it of the loaders of a training or a test (ssm_train.runtime.loading_processes).
    ("This DataLoader will create .* worker processes", r"torch\.utils\.data\.dataloader"),
    # mmdet's grids of points are made without the argument, in the order that torch still takes by default.
    (r"torch\.meshgrid: in an upcoming release", r"torch\.functional"),
)


def leave_out() -> None:
    """Leave out these warnings, and the lines for debugging that mmengine prints because it was given no logger.

    The latter say, at every import of mmdet and mmseg, that the package OneDL is not installed. The call has to come
    before these imports. A second one changes nothing.
    """
    for message, module in _SAY_NOTHING:
        warnings.filterwarnings("ignore", message, Warning, module)
    if not hasattr(mmengine_logging.print_log, "__wrapped__"):
        mmengine_logging.print_log = _by_level(mmengine_logging.print_log)


def _by_level(print_log: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(print_log)
    def printing(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        # Without a logger, mmengine prints a line of any level.
        if logger is not None or level >= logging.INFO:
            print_log(msg, logger, level)

    return printing
