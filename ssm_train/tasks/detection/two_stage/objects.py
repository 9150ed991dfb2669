"""The annotated objects of a batch as tensors of one size, so that the host need not ask the device for lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class DeviceMasks(BitmapMasks):
    """mmdet's masks, whose pixels are on the device. mmdet's own heads can use them, too, by a copy on the host.

    Args:
        pixels: 1 inside an object and 0 elsewhere.
    """

    def __init__(
        self,
        pixels: Tensor,  # [count, H, W] uint8
    ):
        self.pixels = pixels
        self.height, self.width = pixels.shape[1:]

    @property
    def masks(self) -> np.ndarray:  # [count, H, W] uint8
        """The masks as mmdet has them."""
        pixels: np.ndarray = self.pixels.cpu().numpy()
        return pixels

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class Objects:
    """The objects of a batch of B images. N is the largest number of an image, and at least 1.

    Attributes:
        boxes: left, top, right and bottom in pixels; 0 where an image has no more objects.
        labels: numbers of the classes; 0 where an image has no more objects.
        real: whether there is an object at a place.
        sizes: height and width of each image without its padding.
        padded: height and width of each image, padded to the divisor of the batch.
        masks: the masks of all images, one behind the other, and at least one; None without masks.
    """

    boxes: Tensor  # [B, N, 4]
    labels: Tensor  # [B, N]
    real: Tensor  # [B, N] bool
    sizes: Tensor  # [B, 2]
    padded: Tensor  # [B, 2]
    masks: Tensor | None  # [M, H, W] uint8

    @classmethod
    def of(cls, samples: Sequence[DetDataSample], device: torch.device) -> "Objects":
        """Collect the objects of mmdet's samples.

        Args:
            samples: samples with ``gt_instances``, the boxes of which are tensors.
            device: where the boxes are, and the masks are to be.
        """
        objects = [sample.gt_instances for sample in samples]
        counts = [len(own.labels) for own in objects]
        # One copy for all that the host knows. From pinned memory it does not wait.
        known = torch.tensor(
            [
                [count, *sample.img_shape[:2], *sample.get("pad_shape", sample.img_shape)[:2]]
                for count, sample in zip(counts, samples, strict=True)
            ]
        )
        known = (known.pin_memory() if device.type == "cuda" else known).to(device, non_blocking=True)
        # Zeros of one object more where no image has any.
        boxes = [own.bboxes for own in objects] + [objects[0].bboxes.new_zeros(1, 4)]
        labels = [own.labels for own in objects] + [objects[0].labels.new_zeros(1)]
        stacked = pad_sequence(boxes, batch_first=True)[:-1]
        return cls(
            boxes=stacked,
            labels=pad_sequence(labels, batch_first=True)[:-1],
            real=torch.arange(stacked.shape[1], device=device) < known[:, :1],
            sizes=known[:, 1:3],
            padded=known[:, 3:5],
            masks=_masks([own.get("masks") for own in objects], device),
        )

    def mask_numbers(
        self,
        places: Tensor,  # [B, K]: numbers of objects of an image
    ) -> Tensor:  # [B, K]
        """The places of objects in ``masks``."""
        counts = self.real.sum(1)
        return (counts.cumsum(0) - counts)[:, None] + places


def _masks(masks: Sequence[Any], device: torch.device) -> Tensor | None:
    if any(own is None for own in masks):
        return None
    pixels = [
        own.pixels if isinstance(own, DeviceMasks) else own.to_tensor(torch.uint8, device) for own in masks if len(own)
    ]
    if not pixels:
        first = masks[0]
        return torch.zeros(1, first.height, first.width, dtype=torch.uint8, device=device)
    return torch.cat(pixels)
