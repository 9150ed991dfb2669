"""Training batches with one tensor of images and one of label maps, from the worker process to the device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from torch import Tensor

from ssm_train.tasks.preprocessing import AnyChannels


def stack_samples(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack images and label maps if they have one size, and collate them as mmengine does otherwise.

    mmengine's batches are lists with two tensors for each image. Every tensor is sent between processes, pinned and
    moved on its own, and every label has eight bytes.

    Args:
        samples: mmseg's samples with ``inputs`` [C, H, W], and ``data_samples`` with ``gt_sem_seg`` [1, H, W].

    Returns:
        A batch for :class:`StackedSegDataPreProcessor`: ``inputs`` [B, C, H, W], ``labels`` [B, 1, H, W] of type uint8,
        which is the type that mmseg's transforms read, and ``data_samples`` without label maps.
    """
    sizes = {sample["inputs"].shape for sample in samples}
    whole = all(set(sample["data_samples"].keys()) == {"gt_sem_seg"} for sample in samples)
    if len(sizes) > 1 or not whole:
        return pseudo_collate(samples)
    # Converted one by one, because all labels of eight bytes would not fit into the cache.
    labels = torch.stack([sample["data_samples"].gt_sem_seg.data.to(torch.uint8) for sample in samples])
    for sample in samples:
        del sample["data_samples"].gt_sem_seg
    return {
        "inputs": torch.stack([sample["inputs"] for sample in samples]),
        "labels": labels,
        "data_samples": [sample["data_samples"] for sample in samples],
    }


class StackedSegDataPreProcessor(AnyChannels, SegDataPreProcessor):
    """mmseg's preprocessor, which normalises and pads a batch of :func:`stack_samples` as one tensor.

    The arguments are mmseg's. ``mean`` and ``std`` have a number for each channel, however many there are.
    """

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Move a batch to the device, normalise it and pad it.

        Args:
            data: a batch of :func:`stack_samples`, or any batch that mmseg's preprocessor takes.
            training: whether the batch is for training and padded by ``size`` and ``size_divisor``.

        Returns:
            ``inputs`` [B, C, H, W] and ``data_samples``.
        """
        if not training or "labels" not in data:
            return super().forward(data, training)
        images, labels = (data[key].to(self.device, non_blocking=True) for key in ("inputs", "labels"))
        if self._channel_conversion and images.shape[1] == 3:
            images = images.flip(1)
        images = images.float()
        if self._enable_normalize:
            images = (images - self.mean) / self.std
        padding = self._padding(images)
        images, labels = F.pad(images, padding, value=self.pad_val), F.pad(labels, padding, value=self.seg_pad_val)
        shapes = {"img_shape": data["inputs"].shape[2:], "pad_shape": images.shape[2:], "padding_size": padding}
        for sample, label in zip(data["data_samples"], labels.long(), strict=True):
            sample.gt_sem_seg = PixelData(data=label)
            sample.set_metainfo(shapes)
        samples = data["data_samples"]
        if self.batch_augments is not None:
            images, samples = self.batch_augments(images, samples)
        return {"inputs": images, "data_samples": samples}

    def _padding(self, images: Tensor) -> tuple[int, int, int, int]:
        """Number of columns to add on the left and right, and of rows to add above and below."""
        height, width = images.shape[2:]
        if self.size is not None:
            return 0, max(self.size[1] - width, 0), 0, max(self.size[0] - height, 0)
        divisor = self.size_divisor or 1
        return 0, -width % divisor, 0, -height % divisor
