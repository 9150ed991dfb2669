"""The operators of ``mmcv._ext`` that detectors need, computed by torchvision. Names and arguments are mmcv's.

Like mmcv's operators, they write their results into tensors that the caller passes. Boxes are ``(x1, y1, x2, y2)`` in
pixels. With ``offset`` 1, x2 and y2 are the last pixels inside the box, so that its width is ``x2 - x1 + 1``. float16
and bfloat16 are computed in float32.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms
from torchvision.ops import sigmoid_focal_loss

from ssm_train.compat.mmcv import MissingOperatorError

__all__ = [
    "bbox_overlaps",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "roi_align_backward",
    "roi_align_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softnms",
]

# The numbers by which mmcv passes these choices.
HARD, LINEAR, GAUSSIAN = 0, 1, 2
MAX_POOL = 0
IOU = 0


def get_compiler_version() -> str:
    """The compiler, as mmcv's report on the environment shows it."""
    return "none (torchvision's operators)"


def get_compiling_cuda_version() -> str:
    """The CUDA version, as mmcv's report on the environment shows it."""
    return f"none (torchvision's operators, CUDA {torch.version.cuda})"


def _full(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def nms(
    boxes: Tensor,  # [N, 4]
    scores: Tensor,  # [N]
    iou_threshold: float,
    offset: Literal[0, 1],
) -> Tensor:  # [kept]
    """Non-maximum suppression: each kept box drops those of lower scores that overlap it by more than a threshold.

    Args:
        boxes: the boxes.
        scores: their scores.
        iou_threshold: intersection over union above which a box is dropped.
        offset: 1 if x2 and y2 are the last pixels inside a box, else 0.

    Returns:
        Indices of the kept boxes by falling score. Among equal scores the lower index comes first.
    """
    boxes = _full(boxes)
    # mmcv compares in the precision of the boxes. 0.3 in float32 is another number than 0.3 in float64.
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype).item()
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torchvision_nms(boxes, scores.to(boxes.dtype), threshold)


def softnms(
    boxes: Tensor,  # [N, 4], on the CPU
    scores: Tensor,  # [N]
    dets: Tensor,  # [N, 5], written to
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: Literal[0, 1],
) -> Tensor:  # [kept]
    """Soft-NMS (Bodla et al. 2017): boxes that overlap a better one lose score instead of being dropped.

    Args:
        boxes: the boxes.
        scores: their scores.
        dets: receives the kept boxes with their new scores, in the order in which they were kept.
        iou_threshold: overlap from which on a score falls. The Gaussian method does not use it.
        sigma: variance of the Gaussian.
        min_score: a box whose score falls below it is dropped.
        method: 0 sets the score to 0, 1 multiplies it by 1 - IoU, 2 multiplies it by exp(-IoU² / sigma).
        offset: 1 if x2 and y2 are the last pixels inside a box, else 0.

    Returns:
        Indices of the kept boxes.
    """
    corners, score = _full(boxes).numpy(), _full(scores).numpy().copy()
    areas = _areas(corners, offset)
    left = np.arange(len(score))
    kept = []
    while left.size:
        best = left[score[left].argmax()]
        dets[len(kept)] = torch.cat([boxes[best], boxes.new_tensor([score[best]])])
        kept.append(best)
        left = left[left != best]
        iou = _iou_of_one(corners, areas, best, left, offset)
        if method == GAUSSIAN:
            weight = np.exp(-(iou**2) / sigma)
        else:
            weight = np.where(iou >= iou_threshold, 1 - iou if method == LINEAR else 0, 1)
        score[left] *= weight.astype(score.dtype)
        left = left[score[left] >= min_score]
    return torch.tensor(kept, dtype=torch.long)


def nms_match(
    dets: Tensor,  # [N, 5], on the CPU
    iou_threshold: float,
) -> list[list[int]]:
    """Groups of boxes: a box that non-maximum suppression keeps, followed by the boxes that it drops.

    Unlike in :func:`nms`, an overlap equal to the threshold drops a box too.

    Args:
        dets: boxes and, in the last column, their scores.
        iou_threshold: intersection over union from which on a box is dropped.

    Returns:
        Indices of the boxes of each group.
    """
    values = _full(dets).numpy()
    corners, areas = values[:, :4], _areas(values[:, :4], 0)
    left = np.argsort(-values[:, 4], kind="stable")
    groups = []
    while left.size:
        first, left = left[0], left[1:]
        dropped = _iou_of_one(corners, areas, first, left, 0) >= iou_threshold
        groups.append([int(first), *left[dropped].tolist()])
        left = left[~dropped]
    return groups


def _areas(corners: np.ndarray, offset: int) -> np.ndarray:
    return (corners[:, 2] - corners[:, 0] + offset) * (corners[:, 3] - corners[:, 1] + offset)


def _iou_of_one(corners: np.ndarray, areas: np.ndarray, one: int, others: np.ndarray, offset: int) -> np.ndarray:
    """Overlap of one box with others. It is NaN for two boxes without area, and NaN reaches no threshold."""
    top_left = np.maximum(corners[one, :2], corners[others, :2])
    bottom_right = np.minimum(corners[one, 2:], corners[others, 2:])
    inside = np.maximum(bottom_right - top_left + offset, 0).prod(axis=1)
    with np.errstate(invalid="ignore"):
        return inside / (areas[one] + areas[others] - inside)


def bbox_overlaps(
    bboxes1: Tensor,  # [M, 4]
    bboxes2: Tensor,  # [N, 4]
    ious: Tensor,  # [M, N], or [M] if aligned; written to
    mode: int,
    aligned: bool,
    offset: Literal[0, 1],
) -> None:
    """Overlaps of all pairs of boxes, or of the pairs at equal indices.

    Args:
        bboxes1: the first boxes.
        bboxes2: the second boxes.
        ious: receives the overlaps.
        mode: 0 divides the intersection by the union, 1 by the area of the first box.
        aligned: whether only boxes at equal indices are compared.
        offset: 1 if x2 and y2 are the last pixels inside a box, else 0.
    """
    one, two = _full(bboxes1), _full(bboxes2)
    if not aligned:
        one = one[:, None]
    sides1, sides2 = (box[..., 2:] - box[..., :2] + offset for box in (one, two))
    inside = (torch.min(one[..., 2:], two[..., 2:]) - torch.max(one[..., :2], two[..., :2]) + offset).clamp(min=0)
    inside, area1, area2 = inside.prod(-1), sides1.prod(-1), sides2.prod(-1)
    ious.copy_(inside / (area1 + area2 - inside if mode == IOU else area1))


def roi_align_forward(
    input: Tensor,  # [B, C, H, W]
    rois: Tensor,  # [K, 5]: the image's number and a box
    output: Tensor,  # [K, C, h, w], written to
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (He et al. 2017): means of bilinear samples in a grid of bins over each box.

    Args:
        input: the feature maps.
        rois: the boxes, in pixels of the image.
        output: receives the means.
        argmax_y: unused; only the maximum needs it.
        argmax_x: unused; only the maximum needs it.
        aligned_height: number of rows of bins, h.
        aligned_width: number of columns of bins, w.
        spatial_scale: size of a feature map divided by the size of the image.
        sampling_ratio: samples along each side of a bin; 0 takes one a pixel of the feature map, rounded up.
        pool_mode: 1 for the mean; 0, the maximum, is not supported.
        aligned: whether the value of a pixel belongs to its centre, half a pixel from its corner.

    Raises:
        MissingOperatorError: ``pool_mode`` asks for the maximum.
    """
    _check_mean(pool_mode)
    maps = _full(input)
    result = torch.ops.torchvision.roi_align(
        maps, rois.to(maps.dtype), spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
    )
    output.copy_(result)


def roi_align_backward(
    grad_output: Tensor,  # [K, C, h, w]
    rois: Tensor,  # [K, 5]
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,  # [B, C, H, W], written to
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of :func:`roi_align_forward` with respect to the feature maps into ``grad_input``.

    Raises:
        MissingOperatorError: ``pool_mode`` asks for the maximum.
    """
    _check_mean(pool_mode)
    grad = _full(grad_output)
    result = torch.ops.torchvision._roi_align_backward(
        grad,
        rois.to(grad.dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.copy_(result)


def _check_mean(pool_mode: int) -> None:
    if pool_mode == MAX_POOL:
        raise MissingOperatorError("roi_align with pool_mode='max'")


def sigmoid_focal_loss_forward(
    input: Tensor,  # [N, C]
    target: Tensor,  # [N]
    weight: Tensor,  # [C], or [0] for none
    output: Tensor,  # [N, C], written to
    gamma: float,
    alpha: float,
) -> None:
    """Focal loss (Lin et al. 2017) of each class against all others, written into ``output``.

    Args:
        input: logits.
        target: number of the true class, or C for the background.
        weight: weights of the classes, which are not supported; an empty tensor.
        output: receives the losses.
        gamma: exponent that lowers the loss of easy examples.
        alpha: weight of positive examples; negative ones have 1 - alpha.

    Raises:
        MissingOperatorError: ``weight`` is not empty.
    """
    output.copy_(_focal_loss(_full(input), target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor,  # [N, C]
    target: Tensor,  # [N]
    weight: Tensor,  # [C], or [0] for none
    grad_input: Tensor,  # [N, C], written to
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of each loss of :func:`sigmoid_focal_loss_forward` by its logit into ``grad_input``.

    Raises:
        MissingOperatorError: ``weight`` is not empty.
    """
    with torch.enable_grad():
        logits = _full(input.detach()).requires_grad_()
        total = _focal_loss(logits, target, weight, gamma, alpha).sum()
    grad_input.copy_(torch.autograd.grad(total, logits)[0])


def _focal_loss(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    if weight.numel():
        raise MissingOperatorError("sigmoid_focal_loss with weights")
    one_hot = (target[:, None] == torch.arange(logits.shape[1], device=target.device)).to(logits.dtype)
    return sigmoid_focal_loss(logits, one_hot, alpha, gamma)


def ms_deform_attn_forward(
    value: Tensor,  # [B, keys, heads, C]
    value_spatial_shapes: Tensor,  # [levels, 2]: height and width of each level
    value_level_start_index: Tensor,  # [levels]
    sampling_locations: Tensor,  # [B, queries, heads, levels, points, 2]: x and y, 0 … 1
    attention_weights: Tensor,  # [B, queries, heads, levels, points]
    im2col_step: int,
) -> Tensor:  # [B, queries, heads · C]
    """Deformable attention (Zhu et al. 2021): weighted sums of bilinear samples of several feature maps.

    mmcv calls it on GPUs alone, and has the same in PyTorch for CPUs, which is used here.

    Args:
        value: the feature maps, one behind the other.
        value_spatial_shapes: their sizes.
        value_level_start_index: where each map starts among the keys. The sizes tell it, too.
        sampling_locations: where each query looks.
        attention_weights: weights of the samples.
        im2col_step: unused; the compiled operator divides batches by it.
    """
    maps = _full(value)
    weighted = _deformable(maps, value_spatial_shapes, _full(sampling_locations), _full(attention_weights))
    return weighted.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,  # [B, keys, heads, C]
    value_spatial_shapes: Tensor,  # [levels, 2]
    value_level_start_index: Tensor,  # [levels]
    sampling_locations: Tensor,  # [B, queries, heads, levels, points, 2]
    attention_weights: Tensor,  # [B, queries, heads, levels, points]
    grad_output: Tensor,  # [B, queries, heads · C]
    grad_value: Tensor,  # written to
    grad_sampling_loc: Tensor,  # written to
    grad_attn_weight: Tensor,  # written to
    im2col_step: int,
) -> None:
    """Write the gradients of :func:`ms_deform_attn_forward` into the tensors that the caller passes."""
    inputs = [_full(x.detach()).requires_grad_() for x in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = _deformable(inputs[0], value_spatial_shapes, *inputs[1:])
    found = torch.autograd.grad(output, inputs, _full(grad_output))
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), found, strict=True):
        target.copy_(grad)


def _deformable(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    # Imported here because mmcv.ops imports this module.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
