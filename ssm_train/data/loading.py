"""Reads images and label maps in the pipelines of detection and segmentation, in place of mmcv's and mmseg's steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssm_core.errors import ConfigError
from ssm_train.data.images import decode_channels
from ssm_train.data.label_maps import IGNORED, Colour, check_palette, read_label_map
from ssm_train.data.pixels import check_range
from ssm_train.registry import TRANSFORMS

# What the names of steps begin with that read label maps and other annotations.
ANNOTATIONS = ("LoadAnnotations", "LoadLabelMap")


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


@TRANSFORMS.register_module()
class LoadLabelMap:
    """Reads the label map of a sample, in place of mmseg's ``LoadAnnotations``, see :func:`.label_maps.read_label_map`.

    mmseg's step keeps the last eight bits of every label, so that 256 becomes 0. This one checks them first.

    Args:
        palette: the colour of each class, if label maps are in colours.

    Raises:
        ConfigError: ``palette`` is wrong.
    """

    def __init__(self, palette: Sequence[Colour] | None = None):
        self.palette = None if palette is None else check_palette(palette)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``gt_seg_map`` [H, W] uint8 to what is known of a sample, whose file is ``seg_map_path``.

        Raises:
            ValueError: a label is neither from 0 to 254 nor 255, which is ignored; or the file has another form.
            OSError: the file cannot be read; any other of :data:`~ssm_train.data.images.UNREADABLE` says the same.
        """
        labels = read_label_map(results["seg_map_path"], self.palette)
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most > IGNORED:
            raise ValueError(
                f"its label map has labels from {least} to {most}: classes are numbered from 0, {IGNORED} is ignored"
            )
        numbers = np.arange(IGNORED + 1, dtype=np.uint8)
        if results.get("reduce_zero_label"):  # the data have no label for "none of the classes" but 0
            numbers = np.roll(numbers, 1)
            numbers[0] = numbers[IGNORED] = IGNORED
        chosen = numbers.copy()
        for old, new in (results.get("label_map") or {}).items():  # a dataset with some of the classes
            chosen[numbers == old] = new
        return {**results, "gt_seg_map": chosen[labels], "seg_fields": [*results.get("seg_fields", ()), "gt_seg_map"]}
