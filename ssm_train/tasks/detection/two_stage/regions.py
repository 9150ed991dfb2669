"""RoIAlign of all levels of a pyramid, and masks cut out by it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import ops as _operators  # noqa: F401 (registers torch.ops.torchvision)

from ssm_train.tasks.detection.two_stage.objects import Objects


def mask_targets(
    objects: Objects,
    boxes: Tensor,  # [B, K, 4]
    numbers: Tensor,  # [B, K]: objects of an image
    size: Sequence[int],
    binary: bool = True,
) -> Tensor:  # [B·K, h, w]
    """The masks of objects within boxes, as mmdet's ``BitmapMasks.crop_and_resize`` computes them.

    Args:
        objects: the objects, with masks.
        boxes: a box for each of them.
        numbers: numbers of the objects.
        size: height and width of the result.
        binary: whether a pixel is 0 or 1.
    """
    masks = objects.masks
    assert masks is not None
    height, width = masks.shape[1:]
    left, top, right, bottom = boxes.unbind(-1)
    corners = (left.clamp(0, width), top.clamp(0, height), right.clamp(0, width), bottom.clamp(0, height))
    places = objects.mask_numbers(numbers).clamp_(max=len(masks) - 1)
    rois = torch.stack([places.to(boxes.dtype), *corners], -1).flatten(0, 1)
    cut = torch.ops.torchvision.roi_align(masks[:, None].to(boxes.dtype), rois, 1.0, *size, 0, True)[:, 0]
    return (cut >= 0.5).to(boxes.dtype) if binary else cut


def as_rois(
    boxes: Tensor,  # [B, K, 4]
) -> Tensor:  # [B·K, 5]
    """mmdet's form of boxes: the number of the image and the box."""
    numbers = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
    return torch.cat([numbers[:, None, None].expand(*boxes.shape[:2], 1), boxes], -1).flatten(0, 1)
