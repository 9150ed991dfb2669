"""RoIAlign in full precision."""

from collections.abc import Sequence

import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn
from torchvision import ops as _operators  # noqa: F401 (registers torch.ops.torchvision)


class Float32RoIExtractor(SingleRoIExtractor):
    """mmdet's extractor, which keeps boxes and bilinear weights in float32 under autocast.

    mmdet rounds boxes to the type of the features. A number in bfloat16 has 8 significant bits. A corner at 1000 pixels
    would therefore move by up to 2 pixels, and the mask with it. mmdet also waits for the device on every level, to
    know which boxes belong to it. Here every level gets all boxes, and those of other levels are empty there. The
    arguments are mmdet's.
    """

    def forward(
        self,
        feats: tuple[Tensor, ...],  # [B, C, H, W] of every level
        rois: Tensor,  # [K, 5]: the index of the image and a box
        roi_scale_factor: float | None = None,
    ) -> Tensor:  # [K, C, h, w]
        """Features of the boxes. The size of a box decides which level they are taken from."""
        levels = in_full_precision(feats)
        rois = rois.to(levels[0].dtype)
        own = self.map_roi_levels(rois, len(levels))
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        numbers, boxes = rois[:, :1], rois[:, 1:]
        total = None
        for number, (layer, level) in enumerate(zip(self.roi_layers, levels, strict=False)):
            mine = (own == number)[:, None]
            found = _align(layer, level, torch.cat([numbers, torch.where(mine, boxes, 0)], 1))
            if not _leaves_empty_boxes(layer):
                found = torch.where(mine[:, :, None, None], found, 0)
            total = found if total is None else total + found
        return total


def in_full_precision(levels: Sequence[Tensor]) -> list[Tensor]:
    """Feature maps in float32 or float64, in the layout that RoIAlign would copy them to.

    Args:
        levels: [B, C, h, w] of every level.
    """
    return [
        level.to(torch.promote_types(level.dtype, torch.float32), memory_format=torch.contiguous_format)
        for level in levels
    ]


def _align(layer: nn.Module, level: Tensor, rois: Tensor) -> Tensor:
    """mmcv's layer without its copy of the result, where torchvision has the same."""
    if type(layer) is not RoIAlign or layer.pool_mode != "avg":
        return layer(level, rois)
    return torch.ops.torchvision.roi_align(
        level, rois, layer.spatial_scale, *layer.output_size, layer.sampling_ratio, layer.aligned
    )


def _leaves_empty_boxes(layer: nn.Module) -> bool:
    """Whether the features of an empty box are 0: no samples are taken of it."""
    return type(layer) is RoIAlign and layer.pool_mode == "avg" and layer.sampling_ratio == 0 and layer.aligned
