"""Reads images in the pipelines of detection and segmentation, in place of mmcv's ``LoadImageFromFile``."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssm_core.errors import ConfigError
from ssm_train.data.images import decode_channels
from ssm_train.data.pixels import check_range
from ssm_train.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImage:
    """Reads the image of a sample as all other parts of this project do, see :func:`.images.decode_channels`.

    The result has mmcv's form: ``img`` is [H, W] for one channel and [H, W, C] for others, and three channels are blue,
    green and red. The model's ``data_preprocessor`` has as many means, and ``bgr_to_rgb=True`` for three channels only.

    Args:
        channels: number of channels.
        value_range: the values of black and white in the files; see :func:`.pixels.to_levels`.

    Raises:
        ConfigError: ``channels`` or ``value_range`` is wrong.
    """

    def __init__(self, channels: int = 3, value_range: Sequence[float] | None = None):
        if type(channels) is not int or channels < 1:
            raise ConfigError(f"LoadImage's channels are a number of 1 or more, not {channels!r}")
        self.channels = channels
        self.value_range = None if value_range is None else check_range(value_range)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``img``, ``img_shape`` and ``ori_shape`` to what is known of a sample, whose file is ``img_path``.

        Raises:
            OSError: the file cannot be read; any other of :data:`~ssm_train.data.images.UNREADABLE` says the same.
        """
        image = np.asarray(decode_channels(results["img_path"], self.channels, self.value_range))
        if self.channels == 3:
            image = image[..., ::-1]
        size = image.shape[:2]
        return {**results, "img": np.ascontiguousarray(image), "img_shape": size, "ori_shape": size}
