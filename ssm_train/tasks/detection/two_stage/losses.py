"""mmdet's losses for samples of one size, of which some places are empty.

mmdet's modules wait for the device: they ask whether any weight is above 0, and make lists of indices. These functions
take the settings of those modules and compute the same sums.
"""

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.losses import CrossEntropyLoss, L1Loss, SmoothL1Loss
from torch import Tensor

from ssm_core.errors import ConfigError
from ssm_train.tasks.detection.two_stage.refusal import refuse

_LEAST = torch.finfo(torch.float32).eps  # mmdet adds it to every divisor


def check_class_loss(loss: Any, where: str, sigmoid: bool = False, mask: bool = False) -> None:
    """Check that a loss of classes is a plain cross entropy.

    Args:
        loss: mmdet's module.
        where: the head that it belongs to.
        sigmoid: whether the loss is of one output with a sigmoid.
        mask: whether it is the loss of masks.

    Raises:
        ConfigError: it is another loss or has options that are not supported.
    """
    kind = "use_mask=True" if mask else f"use_sigmoid={sigmoid}"
    if type(loss) is not CrossEntropyLoss or loss.use_sigmoid is not sigmoid or bool(loss.use_mask) is not mask:
        raise ConfigError(f"the fast heads need CrossEntropyLoss with {kind} as the loss of classes of {where}")
    refuse(
        {
            "class_weight": loss.class_weight is not None,
            "ignore_index": loss.ignore_index is not None,
            f"reduction={loss.reduction!r}": loss.reduction != "mean",
        },
        f"CrossEntropyLoss of {where}",
    )


def check_box_loss(loss: Any, where: str) -> None:
    """Check that a loss of boxes is one of their deltas.

    Raises:
        ConfigError: it is another loss or has options that are not supported.
    """
    if type(loss) not in (L1Loss, SmoothL1Loss):
        raise ConfigError(
            f"the fast heads need L1Loss or SmoothL1Loss as loss_bbox of {where}, not {type(loss).__name__}"
        )
    refuse({f"reduction={loss.reduction!r}": loss.reduction != "mean"}, f"{type(loss).__name__} of {where}")


def box_loss(
    loss: Any,
    found: Tensor,  # [..., 4]
    wanted: Tensor,  # [..., 4]
    counts: Tensor,  # [...] bool
    divisor: Tensor,
) -> Tensor:
    """The loss of deltas at the places that count, by mmdet's module.

    Args:
        loss: mmdet's module.
        found: predicted deltas.
        wanted: their targets. They may be infinite where nothing counts.
        counts: which places count.
        divisor: what the sum is divided by.
    """
    difference = (found - torch.where(counts[..., None], wanted, 0)).abs()
    if isinstance(loss, SmoothL1Loss):
        beta = loss.beta
        difference = torch.where(difference < beta, 0.5 * difference.square() / beta, difference - 0.5 * beta)
    return loss.loss_weight * torch.where(counts[..., None], difference, 0).sum() / (divisor + _LEAST)


def sigmoid_loss(
    loss: Any,
    logits: Tensor,  # [...]
    positive: Tensor,  # [...] bool
    weights: Tensor,  # [...]
    divisor: Tensor,
) -> Tensor:
    """The loss of single outputs, by mmdet's module, see :func:`box_loss`."""
    values = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    return loss.loss_weight * (values * weights).sum() / (divisor + _LEAST)


def softmax_loss(
    loss: Any,
    logits: Tensor,  # [K, classes]
    labels: Tensor,  # [K]
    weights: Tensor,  # [K]
) -> Tensor:
    """The loss of classes, by mmdet's module. The sum is divided by the number of weights above 0."""
    values = F.cross_entropy(logits, labels, reduction="none")
    return loss.loss_weight * (values * weights).sum() / ((weights > 0).sum().clamp(min=1) + _LEAST)


def mask_loss(
    loss: Any,
    logits: Tensor,  # [K, h, w]
    targets: Tensor,  # [K, h, w]
    counts: Tensor,  # [K] bool
) -> Tensor:
    """The mean loss of masks that count, by mmdet's module; 0 if none counts."""
    values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((1, 2))
    return loss.loss_weight * (values * counts).sum() / counts.sum().clamp(min=1)


def accuracy(
    logits: Tensor,  # [K, classes]
    labels: Tensor,  # [K]
    counts: Tensor,  # [K] bool
) -> Tensor:
    """Percent of the places that count whose class is right."""
    right = (logits.argmax(1) == labels) & counts
    return 100.0 * right.sum() / counts.sum().clamp(min=1)
