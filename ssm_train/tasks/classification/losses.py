"""Losses of classifiers: cross entropy over the classes or over yes and no of each, with weights, and focal."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor,  # [B, classes]
    target: Tensor,  # [B] class numbers, or [B, classes] shares
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,  # [classes]
    focal_gamma: float = 0.0,
) -> Tensor:
    """The mean over the images of ``-sum(weight · target · (1 - p)^gamma · log p)`` with the softmax p.

    The sum is divided by the number of images, and not by that of the weights. The mean over the processes of a run is
    therefore that over all images. With ``focal_gamma`` it is the focal loss (Lin et al. 2017), which counts images
    less that are already right.

    Args:
        logits: outputs of the network.
        target: true classes.
        label_smoothing: share of the target that is spread over all classes; for class numbers alone.
        weight: weight of each class.
        focal_gamma: exponent of the focal loss.
    """
    if focal_gamma == 0:
        smoothing = label_smoothing if target.ndim == 1 else 0.0
        losses = F.cross_entropy(logits, target, weight, reduction="none", label_smoothing=smoothing)
        return losses.mean()
    shares = target if target.ndim == 2 else _smoothed(target, logits.shape[1], label_smoothing, logits.dtype)
    log_p = logits.log_softmax(1)
    terms = -shares * (1 - log_p.exp()) ** focal_gamma * log_p
    return (terms if weight is None else terms * weight).sum(1).mean()


def binary_cross_entropy(
    logits: Tensor,  # [B, classes]
    target: Tensor,  # [B, classes], from 0 to 1
    weight: Tensor | None = None,  # [classes]
    focal_gamma: float = 0.0,
) -> Tensor:
    """The mean over images and classes of the cross entropy between yes and no, with the sigmoid of each logit.

    Args:
        logits: outputs of the network.
        target: whether an image has a class.
        weight: weight of the images that have the class; those that do not have it count 1.
        focal_gamma: exponent of the focal loss; 0 for none.
    """
    losses = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="none")
    if focal_gamma:
        p = logits.sigmoid()
        losses = losses * (target * (1 - p) + (1 - target) * p) ** focal_gamma
    return losses.mean()


def balanced_weights(counts: list[int], images: int, binary: bool) -> Tensor:  # [classes]
    """Weights that let every class count the same.

    Args:
        counts: number of the images of each class.
        images: number of all images.
        binary: for :func:`binary_cross_entropy`, the number of images without the class over that with it. Otherwise it
            is the mean number of images of a class over that of this class, as scikit-learn's ``"balanced"`` has it.

    Returns:
        The weights; 0 for a class without images.
    """
    found = torch.tensor(counts, dtype=torch.float32)
    wanted = images - found if binary else torch.full_like(found, images / len(counts))
    return torch.where(found > 0, wanted / found.clamp_min(1), 0)


def _smoothed(label: Tensor, classes: int, smoothing: float, dtype: torch.dtype) -> Tensor:  # [B, classes]
    return F.one_hot(label, classes).to(dtype) * (1 - smoothing) + smoothing / classes
