"""Cross entropy of resized logits in little memory: a few images at a time."""

from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.losses import CrossEntropyLoss
from torch import Tensor, nn

from ssm_train.tasks.segmentation.resize import bilinear_resize

# Logits of full size that exist at a time. 150 classes at 512x512 have 3.9e7 an image: 3 images, 0.3 GB in bfloat16.
LOGITS = 2**27
_LEAST = torch.finfo(torch.float32).eps  # mmseg adds it to the divisor


def is_sum_over_pixels(loss: nn.Module) -> bool:
    """Whether a loss is a plain cross entropy, the mean over all pixels, of which parts can be computed one by one.

    Args:
        loss: mmseg's module.
    """
    return (
        type(loss) is CrossEntropyLoss
        and not (loss.use_sigmoid or loss.use_mask or loss.avg_non_ignore)
        and loss.class_weight is None
        and loss.reduction == "mean"
    )


class _Loss(torch.autograd.Function):
    """Loss and number of right pixels. The gradient is computed with the loss, part by part."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,  # [B, classes, h, w]
        labels: Tensor,  # [B, H, W]
        ignored: int,
        align_corners: bool,
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        size = (labels.shape[1], labels.shape[2])
        images = max(LOGITS // (logits.shape[1] * size[0] * size[1]), 1)
        gradient = torch.empty_like(logits) if wanted else None
        total = logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
        right = labels.new_zeros(())
        for start in range(0, len(logits), images):
            part, own = logits[start : start + images].detach(), labels[start : start + images]
            with torch.set_grad_enabled(wanted):
                large = bilinear_resize(part.requires_grad_(wanted), size, align_corners)
                # torch adds up on its own in any order; a tensor of all losses is the same in every run.
                losses = F.cross_entropy(large, own, ignore_index=ignored, reduction="none")
                value = losses.sum() / (labels.numel() + _LEAST)
            if gradient is not None:
                (gradient[start : start + images],) = torch.autograd.grad(value, part)
            total = total + value.detach()
            right = right + ((large.detach().argmax(1) == own) & (own != ignored)).sum()
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None, None


def cross_entropy(
    logits: Tensor,  # [B, classes, h, w]
    labels: Tensor,  # [B, H, W]
    ignored: int,
    align_corners: bool,
) -> tuple[Tensor, Tensor]:
    """The mean cross entropy over all pixels, of logits resized to the labels, and the number of right pixels.

    The logits of full size would take 1.3 GB in bfloat16 for 16 images of 512x512 and 150 classes, and their gradients
    in float32 several times as much. Here they are there for a few images at a time, with their gradient.

    Args:
        logits: logits, not in float16: their gradients are computed before a loss scale is known.
        labels: numbers of classes.
        ignored: label of pixels that have a loss of 0.
        align_corners: see :func:`.bilinear_resize`.
    """
    loss, right = _Loss.apply(logits, labels, ignored, align_corners)
    return loss, right
