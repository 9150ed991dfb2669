"""Cross entropy of resized logits in little memory: a few images at a time."""

from typing import Any

import torch
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


class PixelLoss(nn.Module):
    """The mean cross entropy over all pixels, of logits resized to the labels, and the number of right pixels.

    The logits of full size would take 1.3 GB in bfloat16 for 16 images of 512x512 and 150 classes, and their gradients
    in float32 several times as much. Here they are there for a few images at a time, with their gradient.

    Args:
        ignored: label of pixels that have a loss of 0.
        align_corners: see :func:`.bilinear_resize`.
    """

    compiles_with_backbone = True

    def __init__(self, ignored: int, align_corners: bool):
        super().__init__()
        self.ignored, self.align_corners = ignored, align_corners

    def compile(self, backend: str = "inductor", **_: Any) -> None:
        """Compile what is computed of every pixel. It runs several times in a step, and not as a CUDA graph.

        Args:
            backend: see ``torch.compile``. Its other options are for networks.
        """
        super().compile(backend=backend)

    def of(
        self,
        logits: Tensor,  # [B, classes, h, w]
        labels: Tensor,  # [B, H, W]
    ) -> tuple[Tensor, Tensor]:
        """The loss and the number of right pixels.

        Args:
            logits: logits, not in float16: their gradients are computed before a loss scale is known.
            labels: numbers of classes.
        """
        loss, right = _Loss.apply(logits, labels, self)
        return loss, right

    def forward(
        self,
        logits: Tensor,  # [B, classes, H, W]
        labels: Tensor,  # [B, H, W]
        pixels: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its gradient by the logits, and the number of right pixels, of logits of full size.

        Args:
            logits: logits.
            labels: numbers of classes.
            pixels: what the sum over all pixels is divided by.
        """
        counts = labels != self.ignored
        own = torch.where(counts, labels, 0)[:, None]
        wide = logits.log_softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
        losses = torch.where(counts, -wide.gather(1, own)[:, 0], 0)
        classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
        weights = counts[:, None].to(wide.dtype) / (pixels + _LEAST)
        gradient = wide.exp_().sub_((classes == own).to(logits.dtype)).mul_(weights)
        right = ((logits.argmax(1) == labels) & counts).sum()
        return losses.sum() / (pixels + _LEAST), gradient.to(logits.dtype), right


class _Loss(torch.autograd.Function):
    """Loss and number of right pixels. The gradient is computed with the loss, part by part."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,  # [B, classes, h, w]
        labels: Tensor,  # [B, H, W]
        module: PixelLoss,
    ) -> tuple[Tensor, Tensor]:
        size = (labels.shape[1], labels.shape[2])
        most = max(LOGITS // (logits.shape[1] * size[0] * size[1]), 1)
        # Parts of one size, so that they are compiled once.
        images = next(count for count in range(min(most, len(logits)), 0, -1) if len(logits) % count == 0)
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        values, counts = [], []
        for start in range(0, len(logits), images):
            place = slice(start, start + images)
            part = logits[place].detach().requires_grad_(gradient is not None)
            with torch.set_grad_enabled(gradient is not None):
                large = bilinear_resize(part, size, module.align_corners)
            value, own, right = module(large.detach(), labels[place], labels.numel())
            if gradient is not None:
                gradient[place] = own if large is part else torch.autograd.grad(large, part, own)[0]
            values.append(value)
            counts.append(right)
        ctx.save_for_backward(gradient)
        right = torch.stack(counts).sum()
        ctx.mark_non_differentiable(right)
        return torch.stack(values).sum(), right

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None
