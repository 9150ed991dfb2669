"""mmseg's heads with a faster training step, which neither waits for the device nor sorts the logits of every pixel."""

from typing import Any

import torch
from mmseg.models.decode_heads import FCNHead, UPerHead
from torch import Tensor, nn

from ssm_core.errors import ConfigError
from ssm_train.tasks.segmentation.pixel_loss import PixelLoss, is_sum_over_pixels
from ssm_train.tasks.segmentation.resize import bilinear_resize


class _FastLoss(nn.Module):
    """The losses of mmseg's ``BaseDecodeHead``, with faster resizing and a faster training accuracy.

    A plain cross entropy is computed for a few images at a time (:mod:`.pixel_loss`), which takes less memory. mmseg
    computes the accuracy from the top-k of all logits. It also removes the pixels to ignore, and waits for the
    device to know their number. Its losses fail for some batches in which all pixels are ignored; here they are 0.

    Raises:
        ConfigError: there is one class alone, which is no choice.
    """

    # ``forward`` maps features to logits and can be compiled, which a training with ``compile`` then does.
    compiles_with_backbone = True

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        if self.num_classes < 2:
            raise ConfigError(
                "a segmentor of one class learns nothing, since a pixel has no other: name the background as a class "
                "too, set num_classes=2 and, for a single output with a sigmoid, out_channels=1"
            )
        self.pixel_loss = PixelLoss(self.ignore_index, self.align_corners)

    def loss(
        self,
        inputs: list[Tensor],  # [B, C, h, w] of every stage
        batch_data_samples: list,
        train_cfg: dict,
    ) -> dict[str, Tensor]:
        """Compute the logits and their losses.

        mmseg calls ``self.forward`` here, which does not run the function that ``Module.compile`` made.
        """
        return self.loss_by_feat(self(inputs), batch_data_samples)

    def loss_by_feat(
        self,
        seg_logits: Tensor,  # [B, classes, h, w]
        batch_data_samples: list,
    ) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            seg_logits: logits of the head, of any size.
            batch_data_samples: mmseg's ``SegDataSample``, each with ``gt_sem_seg``. All label maps have one size.

        Returns:
            Losses by name, where those of the same name are added, and ``acc_seg``: correct pixels in percent.
        """
        labels = self._stack_batch_gt(batch_data_samples)  # [B, 1, H, W]
        if self._in_parts(seg_logits):
            return self._losses_in_parts(seg_logits, labels.squeeze(1))
        logits = bilinear_resize(seg_logits, labels.shape[2:], self.align_corners)
        weight = None if self.sampler is None else self.sampler.sample(logits, labels)
        labels = labels.squeeze(1)
        losses: dict[str, Tensor] = {}
        # mmseg's loss for a single output waits for the device in any case, and fails if no pixel counts.
        nothing = self.out_channels == 1 and not (labels != self.ignore_index).any()
        for loss in self.loss_decode if isinstance(self.loss_decode, nn.ModuleList) else [self.loss_decode]:
            value = logits.sum() * 0 if nothing else loss(logits, labels, weight=weight, ignore_index=self.ignore_index)
            losses[loss.loss_name] = losses[loss.loss_name] + value if loss.loss_name in losses else value
        losses["acc_seg"] = self._accuracy(logits.detach(), labels)
        return losses

    def _in_parts(self, seg_logits: Tensor) -> bool:
        """Whether the loss can be computed for a few images at a time. Gradients in float16 need a loss scale."""
        plain = isinstance(self.loss_decode, nn.Module) and not isinstance(self.loss_decode, nn.ModuleList)
        return (
            plain
            and self.sampler is None
            and self.out_channels > 1
            and seg_logits.dtype != torch.float16
            and is_sum_over_pixels(self.loss_decode)
        )

    def _losses_in_parts(
        self,
        seg_logits: Tensor,  # [B, classes, h, w]
        labels: Tensor,  # [B, H, W]
    ) -> dict[str, Tensor]:
        loss, right = self.pixel_loss.of(seg_logits, labels)
        counted = (labels != self.ignore_index).sum().clamp(min=1)
        return {self.loss_decode.loss_name: self.loss_decode.loss_weight * loss, "acc_seg": 100.0 * right / counted}

    def _accuracy(
        self,
        logits: Tensor,  # [B, classes, H, W]
        labels: Tensor,  # [B, H, W]
    ) -> Tensor:
        counts = labels != self.ignore_index
        # A single output is the second of two classes from a threshold on, as in mmseg's predictions.
        found = logits.argmax(1) if self.out_channels > 1 else (logits[:, 0].sigmoid() > self.threshold).long()
        right = (found == labels) & counts
        return 100.0 * right.sum() / counts.sum().clamp(min=1)


class FastFCNHead(_FastLoss, FCNHead):
    """mmseg's ``FCNHead`` with a faster training step. Arguments and losses are the same."""


class FastUPerHead(_FastLoss, UPerHead):
    """mmseg's ``UPerHead`` with a faster training step. Arguments, features and losses are the same."""

    def psp_forward(
        self,
        inputs: list[Tensor],  # [B, C, h, w] of every stage, the finest first
    ) -> Tensor:  # [B, channels, h, w] of the coarsest
        """Pyramid pooling: the last stage, joined with its means over a few coarse grids."""
        last = inputs[-1]
        means = [bilinear_resize(pool(last), last.shape[2:], self.align_corners) for pool in self.psp_modules]
        return self.bottleneck(torch.cat([last, *means], dim=1))

    def _forward_feature(
        self,
        inputs: list[Tensor],  # [B, C, h, w] of every stage, the finest first
    ) -> Tensor:  # [B, channels, h, w] of the finest
        """Features for the classes: a top-down pyramid over the stages, with a pooled summary of the last stage."""
        stages = self._transform_inputs(inputs)
        summary = self.psp_forward(stages)
        pyramid = [summary]
        for stage, lateral in zip(reversed(stages[:-1]), reversed(self.lateral_convs), strict=True):
            finer = lateral(stage)
            pyramid.insert(0, finer + bilinear_resize(pyramid[0], finer.shape[2:], self.align_corners))
        maps = [conv(level) for conv, level in zip(self.fpn_convs, pyramid, strict=False)] + [summary]
        finest = maps[0].shape[2:]
        return self.fpn_bottleneck(torch.cat([bilinear_resize(x, finest, self.align_corners) for x in maps], dim=1))
