"""Detection in large images: objects of overlapping tiles, merged into those of the whole image."""

from typing import Any

import numpy as np
import torch
from mmcv.ops import batched_nms
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools import mask as codec
from torch import Tensor

from ssm_train.tasks.detection.metric import as_text
from ssm_train.tasks.tiles import Place, TiledModel

_NEAR = 0.01  # share of a tile's side within which a box touches the tile's edge


class TiledDetector(TiledModel):
    """A detector that sees tiles of an image.

    Of objects that several tiles see, the likeliest stays (non-maximum suppression by class). Those that the edge of a
    tile cuts come last: such a piece is dropped if it lies in another object of its class for the most part. So an
    object that is whole in one tile is found once, and one that is larger than what tiles share is found in pieces.

    Masks become run lengths of the whole image, because a large image with many objects would need too much memory.

    Args:
        iou_threshold: overlap of two boxes from which only one stays, and the share of a piece from which it falls.
        options: arguments of :class:`.TiledModel`.
    """

    def __init__(self, iou_threshold: float = 0.5, **options: Any):
        super().__init__(**options)
        self.iou_threshold = iou_threshold

    def predict(self, image: Tensor, sample: DetDataSample) -> DetDataSample:
        """Predict for an image, see :meth:`.TiledModel.predict`."""
        size = tuple(image.shape[1:])
        found, cut, masks, with_masks = [], [], [], False
        for place, prediction in self.predictions(image, sample):
            objects = prediction.pred_instances
            if "masks" in objects:
                with_masks = True
                masks += [whole_mask(mask, place, size) for mask in objects.pop("masks").cpu().numpy()]
            cut.append(is_cut(objects.bboxes, place, size))
            objects.bboxes = objects.bboxes + objects.bboxes.new_tensor([place.left, place.top] * 2)
            found.append(objects)
        merged, cut = InstanceData.cat(found), torch.cat(cut)
        kept = merge(merged.bboxes, merged.scores, merged.labels, cut, self.iou_threshold)
        if with_masks:
            merged.masks = masks
        sample.pred_instances = merged[kept]
        return sample


def is_cut(
    boxes: Tensor,  # [N, 4] in pixels of the tile
    place: Place,
    size: tuple[int, int],
) -> Tensor:  # [N] bool
    """Which objects touch an edge of their tile that is no edge of the image.

    Args:
        boxes: of the objects.
        place: of the tile.
        size: height and width of the image.
    """
    height, width = place.bottom - place.top, place.right - place.left
    x, y = _NEAR * width, _NEAR * height
    left, top, right, bottom = boxes.unbind(1)
    return (
        ((left <= x) & (place.left > 0))
        | ((top <= y) & (place.top > 0))
        | ((right >= width - x) & (place.right < size[1]))
        | ((bottom >= height - y) & (place.bottom < size[0]))
    )


def merge(
    boxes: Tensor,  # [N, 4]
    scores: Tensor,  # [N]
    labels: Tensor,  # [N]
    cut: Tensor,  # [N] bool
    threshold: float,
) -> Tensor:  # [kept]
    """Choose the objects of a whole image among those of its tiles, see :class:`TiledDetector`.

    Args:
        boxes: of the objects of all tiles, in pixels of the image.
        scores: from 0 to 1.
        labels: of their classes.
        cut: which of them the edge of a tile cuts.
        threshold: see :class:`TiledDetector`.

    Returns:
        Indices of the objects that stay, by falling score.
    """
    if not len(boxes):
        return boxes.new_zeros(0, dtype=torch.long)
    # A whole object is ranked before every piece.
    _, order = batched_nms(boxes, scores + (~cut).to(scores), labels, {"type": "nms", "iou_threshold": threshold})
    kept = order[~cut[order]]
    for piece in order[cut[order]]:
        others = kept[labels[kept] == labels[piece]]
        if not len(others) or _share_inside(boxes[piece], boxes[others]).max() <= threshold:
            kept = torch.cat([kept, piece[None]])
    return kept[scores[kept].argsort(descending=True, stable=True)]


def _share_inside(box: Tensor, others: Tensor) -> Tensor:
    """The share of a box that lies in each of other boxes."""
    sides = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    return sides.clamp(min=0).prod(1) / (box[2:] - box[:2]).prod().clamp(min=1e-6)


def whole_mask(
    mask: np.ndarray,  # [h, w] bool
    place: Place,
    size: tuple[int, int],
) -> dict[str, Any]:
    """Run lengths of a mask in its whole image, made without the pixels of that image.

    Args:
        mask: in the tile.
        place: of the tile.
        size: height and width of the image.
    """
    height, width = size
    # COCO counts down the columns. A run begins where a column goes from 0 to 1.
    steps = np.diff(mask.T.astype(np.int8), axis=1, prepend=0, append=0)
    bounds = []
    for sign in (1, -1):
        column, row = np.nonzero(steps == sign)
        bounds.append((place.left + column).astype(np.int64) * height + place.top + row)
    ends = np.stack(bounds, axis=1).reshape(-1)  # beginning and end of every run
    touching = np.flatnonzero(ends[1:-1:2] == ends[2::2])  # a run that goes on at the top of the next column
    ends = np.delete(ends, np.concatenate([2 * touching + 1, 2 * touching + 2]))
    if not len(ends) or ends[-1] != height * width:  # COCO writes no empty run at the end
        ends = np.append(ends, height * width)
    counts = np.diff(ends, prepend=0).tolist()
    return as_text(codec.frPyObjects({"size": [height, width], "counts": counts}, height, width))
