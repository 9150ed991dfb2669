"""Batches with one tensor of images and few of objects, from the worker process to the device."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.dataset import pseudo_collate
from torch import Tensor

_KNOWN = {"gt_instances", "ignored_instances"}
_OBJECTS = ({"bboxes", "labels"}, {"bboxes", "labels", "masks"})


def stack_objects(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack the images, boxes and labels of mmdet's samples, and pack eight pixels of a mask into a byte.

    mmengine's batches have several tensors for each image, and masks with a byte for every pixel, which are sent
    between processes as Python objects. Samples of another kind are collated as mmengine does.

    Args:
        samples: mmdet's samples with ``inputs`` [C, h, w] of type uint8, and ``data_samples`` with ``gt_instances``.

    Returns:
        A batch for :class:`.AnyDetDataPreprocessor`: ``inputs`` [B, C, H, W] with zeros to the right and below,
        ``shapes`` with h and w of every image, ``boxes`` [B, N, 4] and ``labels`` [B, N] with zeros where an image has
        no more objects, ``counts`` with the numbers of objects, ``masks`` if the samples have some, a list of
        [count, H, W / 8], and ``data_samples`` without all that.
    """
    if not all(_is_plain(sample) for sample in samples):
        return pseudo_collate(samples)
    objects = [sample["data_samples"].gt_instances for sample in samples]
    if len({frozenset(own.keys()) for own in objects}) > 1:
        return pseudo_collate(samples)
    height, width = (max(sample["inputs"].shape[axis] for sample in samples) for axis in (1, 2))
    images = torch.zeros(len(samples), len(samples[0]["inputs"]), height, width, dtype=torch.uint8)
    most = max(len(own) for own in objects)
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.zeros(len(samples), most, dtype=torch.int64)
    for place, (sample, own) in enumerate(zip(samples, objects, strict=True)):
        image = sample["inputs"]
        images[place, :, : image.shape[1], : image.shape[2]] = image
        boxes[place, : len(own)] = getattr(own.bboxes, "tensor", own.bboxes)
        labels[place, : len(own)] = own.labels
    batch: dict[str, Any] = {"inputs": images, "boxes": boxes, "labels": labels}
    batch["shapes"] = [tuple(sample["inputs"].shape[1:]) for sample in samples]
    batch["counts"] = [len(own) for own in objects]
    if "masks" in objects[0]:
        batch["masks"] = [_packed(own.masks, height, width) for own in objects]
    for sample in samples:
        del sample["data_samples"].gt_instances
        if not len(sample["data_samples"].get("ignored_instances", ())):
            sample["data_samples"].pop("ignored_instances", None)
    return {**batch, "data_samples": [sample["data_samples"] for sample in samples]}


def _is_plain(sample: Mapping[str, Any]) -> bool:
    annotated = sample["data_samples"]
    if sample["inputs"].dtype != torch.uint8 or not set(annotated.keys()) <= _KNOWN or "gt_instances" not in annotated:
        return False
    objects = annotated.gt_instances
    return set(objects.keys()) in _OBJECTS and isinstance(objects.get("masks", BitmapMasks([], 1, 1)), BitmapMasks)


def _packed(masks: BitmapMasks, height: int, width: int) -> Tensor:
    packed = np.zeros((len(masks), height, -(-width // 8)), np.uint8)
    bits = np.packbits(masks.masks.astype(bool), axis=2)
    packed[:, : bits.shape[1], : bits.shape[2]] = bits
    return torch.from_numpy(packed)
