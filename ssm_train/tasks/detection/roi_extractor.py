"""RoIAlign in full precision."""

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor


class Float32RoIExtractor(SingleRoIExtractor):
    """mmdet's extractor, which keeps boxes and bilinear weights in float32 under autocast.

    mmdet rounds boxes to the type of the features. A number in bfloat16 has 8 significant bits. A corner at 1000 pixels
    would therefore move by up to 2 pixels, and the mask with it. The arguments are mmdet's.
    """

    def forward(
        self,
        feats: tuple[Tensor, ...],  # [B, C, H, W] of every level
        rois: Tensor,  # [K, 5]: the index of the image and a box
        roi_scale_factor: float | None = None,
    ) -> Tensor:  # [K, C, h, w]
        """Features of the boxes. The size of a box decides which level they are taken from."""
        with torch.autocast(rois.device.type, enabled=False):
            return super().forward(tuple(level.float() for level in feats), rois.float(), roi_scale_factor)
