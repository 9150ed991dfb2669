"""Merging what a detector finds in several versions of an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.ops import batched_nms
from mmdet.models import DetTTAModel
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

# Masks are flipped back along these dimensions.
_DIMENSIONS = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}


class AugmentedDetector(DetTTAModel):
    """mmdet's merging of boxes by non-maximum suppression, with the masks of the boxes that are kept.

    mmdet refuses models with masks. Here every kept box brings the mask that was found with it. A mask is not averaged
    over versions, because no two versions have the same boxes.

    Args:
        tta_cfg: ``nms`` as mmcv's ``batched_nms`` takes it, and ``max_per_img``, the most objects of an image.
        options: arguments of mmengine's ``BaseTTAModel``.
    """

    def __init__(self, tta_cfg: Mapping[str, Any], **options: Any):
        super().__init__(tta_cfg=tta_cfg, **options)

    def _merge_single_sample(self, data_samples: Sequence[DetDataSample]) -> DetDataSample:
        found = [sample.pred_instances for sample in data_samples]
        boxes, scores = self.merge_aug_bboxes(
            [objects.bboxes for objects in found],
            [objects.scores for objects in found],
            [sample.metainfo for sample in data_samples],
        )
        merged = InstanceData(bboxes=boxes, scores=scores, labels=torch.cat([objects.labels for objects in found]))
        if all("masks" in objects for objects in found):
            merged.masks = torch.cat(
                [
                    objects.masks.flip(_DIMENSIONS[sample.flip_direction]) if sample.flip else objects.masks
                    for objects, sample in zip(found, data_samples, strict=True)
                ]
            )
        if len(merged):
            kept, places = batched_nms(boxes, scores, merged.labels, self.tta_cfg["nms"])
            merged = merged[places]
            merged.scores = kept[:, -1]  # soft suppression lowers them
            merged = merged[: self.tta_cfg["max_per_img"]]
        result = data_samples[0]
        result.pred_instances = merged
        return result
