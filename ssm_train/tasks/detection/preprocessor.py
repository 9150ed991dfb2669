"""mmdet's preprocessor for images of any number of channels and for stacked batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models import DetDataPreprocessor
from mmengine.structures import InstanceData
from torch import Tensor

from ssm_core.errors import ConfigError
from ssm_train.tasks.detection.two_stage.objects import DeviceMasks
from ssm_train.tasks.preprocessing import AnyChannels

_MOST = 2  # times the pixels of a batch that padding to a shape may take


class AnyDetDataPreprocessor(AnyChannels, DetDataPreprocessor):
    """mmdet's preprocessor, which normalises and pads a batch of :func:`.stack_objects` as one tensor.

    ``mean`` and ``std`` have a number for each channel, however many there are.

    Args:
        pad_shapes: heights and widths to which stacked batches are padded: each to the smallest that it fits into. A
            compiled network then sees few shapes. A batch that fits into none, or would more than double its pixels, is
            padded to the divisor.
        settings: the other arguments, which are mmdet's.

    Raises:
        ConfigError: a shape is not two multiples of ``pad_size_divisor``, or masks are to be padded by ones.
    """

    def __init__(self, pad_shapes: Sequence[tuple[int, int]] = (), **settings: Any):
        super().__init__(**settings)
        divisor = self.pad_size_divisor
        for shape in pad_shapes:
            if len(shape) != 2 or any(type(side) is not int or side < 1 or side % divisor for side in shape):
                raise ConfigError(
                    f"data_preprocessor.pad_shapes has {shape!r}, which is not a height and a width in multiples of "
                    f"pad_size_divisor={divisor}"
                )
        if self.mask_pad_value:
            raise ConfigError(f"data_preprocessor.mask_pad_value is 0, not {self.mask_pad_value!r}")
        self.pad_shapes = sorted((tuple(shape) for shape in pad_shapes), key=lambda shape: shape[0] * shape[1])

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Move a batch to the device, normalise it and pad it.

        Args:
            data: a batch of :func:`.stack_objects`, or any batch that mmdet's preprocessor takes.
            training: whether the batch is for training.

        Returns:
            ``inputs`` [B, C, H, W] and ``data_samples``.
        """
        if "boxes" not in data:
            return super().forward(data, training)
        samples, shapes = data["data_samples"], data["shapes"]
        images = self._normalised(data["inputs"].to(self.device, non_blocking=True), shapes)
        batch, divisor = tuple(images.shape[2:]), self.pad_size_divisor
        for sample, objects, (height, width) in zip(samples, self._objects(data, batch), shapes, strict=True):
            sample.gt_instances = objects
            padded = (height + -height % divisor, width + -width % divisor)
            sample.set_metainfo({"batch_input_shape": batch, "pad_shape": padded})
        if training and self.batch_augments is not None:
            for augment in self.batch_augments:
                images, samples = augment(images, samples)
        return {"inputs": images, "data_samples": samples}

    def _normalised(
        self,
        images: Tensor,  # [B, C, H, W] uint8
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:  # [B, C, H, W]
        """Normalised images, with ``pad_value`` around them."""
        if self._channel_conversion and images.shape[1] == 3:
            images = images.flip(1)
        images = images.float()
        if self._enable_normalize:
            images = (images - self.mean) / self.std
        height, width = images.shape[2:]
        for image, (own_height, own_width) in zip(images, shapes, strict=True):
            if own_height < height:
                image[:, own_height:] = self.pad_value
            if own_width < width:
                image[:, :, own_width:] = self.pad_value
        to_height, to_width = self._batch_shape(height, width)
        return F.pad(images, (0, to_width - width, 0, to_height - height), value=self.pad_value)

    def _batch_shape(self, height: int, width: int) -> tuple[int, int]:
        divisor = self.pad_size_divisor
        padded = (height + -height % divisor, width + -width % divisor)
        for shape in self.pad_shapes:
            if height <= shape[0] and width <= shape[1]:
                return shape if shape[0] * shape[1] <= _MOST * padded[0] * padded[1] else padded
        return padded

    def _objects(self, data: Mapping[str, Any], shape: tuple[int, int]) -> list[InstanceData]:
        """mmdet's objects of every image, whose masks have the shape of the batch."""
        boxes, labels = (data[key].to(self.device, non_blocking=True) for key in ("boxes", "labels"))
        counts = data["counts"]
        found = [InstanceData(bboxes=boxes[i, :count], labels=labels[i, :count]) for i, count in enumerate(counts)]
        if "masks" in data:
            packed = torch.cat([own.to(self.device, non_blocking=True) for own in data["masks"]])
            for objects, pixels in zip(found, _unpacked(packed, shape).split(counts), strict=True):
                objects.masks = DeviceMasks(pixels)
        return found


def _unpacked(
    packed: Tensor,  # [count, h, w / 8] uint8
    shape: tuple[int, int],
) -> Tensor:  # [count, H, W] uint8
    """The inverse of ``numpy.packbits``, with zeros to the right and below."""
    bits = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    pixels = (packed[..., None] >> bits).bitwise_and_(1).flatten(2)[..., : shape[1]]
    return F.pad(pixels, (0, shape[1] - pixels.shape[2], 0, shape[0] - pixels.shape[1]))
