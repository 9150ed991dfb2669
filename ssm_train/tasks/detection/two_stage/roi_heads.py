"""mmdet's second stages with a training step that does not wait for the device."""

from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from torch import Tensor, nn

from ssm_train.tasks.detection.roi_extractor import in_full_precision
from ssm_train.tasks.detection.two_stage.objects import Objects
from ssm_train.tasks.detection.two_stage.refusal import refuse
from ssm_train.tasks.detection.two_stage.regions import as_rois
from ssm_train.tasks.detection.two_stage.rpn import Proposals
from ssm_train.tasks.detection.two_stage.second_stage import SecondStage


class _CompiledHeads(nn.Module):
    """Compiles the heads for boxes and masks in training alone. A prediction has another number of boxes every time."""

    compiles_with_backbone = True
    _options: dict[str, Any] | None = None

    def compile(self, **options: Any) -> None:
        """Compile the heads.

        Args:
            options: see ``torch.compile``.
        """
        self._options, self._forwards = options, {}

    def _run(self, head: nn.Module, x: Tensor) -> Any:
        if self._options is None:
            return head(x)
        if type(head) not in self._forwards:
            self._forwards[type(head)] = torch.compile(type(head).forward, **self._options)
        return self._forwards[type(head)](head, x)


class FastRoIHead(_CompiledHeads, StandardRoIHead):
    """mmdet's ``StandardRoIHead`` with a faster training step, used by :class:`.FastTwoStageDetector`.

    The arguments and the losses are those of mmdet. Every image has as many boxes as the sampler may take; places
    that it leaves empty have no weight.

    Raises:
        ConfigError: the assigner, the sampler, a head or a loss is not one of the usual ones.
    """

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        refuse(
            {
                "shared_head": self.with_shared_head,
                "mask_roi_extractor=None": self.with_mask and self.share_roi_extractor,
            },
            "StandardRoIHead",
        )
        if self.train_cfg:
            masks = self.mask_head if self.with_mask else None
            self.stage = SecondStage(self.bbox_assigner, self.bbox_sampler, self.train_cfg, self.bbox_head, masks)

    def losses(
        self,
        features: tuple[Tensor, ...],  # [B, C, h, w] of every level
        proposals: Proposals,
        objects: Objects,
    ) -> dict[str, Tensor]:
        """Train on proposals.

        Args:
            features: feature maps.
            proposals: boxes of the first stage.
            objects: the objects of the images.
        """
        levels = in_full_precision(features)
        regions = self.stage.regions(proposals, objects)
        extractor = self.bbox_roi_extractor
        found = self._run(self.bbox_head, extractor(_inputs(extractor, levels), as_rois(regions.boxes)))
        losses = self.stage.box_losses(self.bbox_head, regions, objects, *found)
        if self.with_mask:
            rois, extractor = as_rois(regions.object_boxes), self.mask_roi_extractor
            logits = self._run(self.mask_head, extractor(_inputs(extractor, levels), rois))
            losses.update(self.stage.mask_losses(self.mask_head, regions, objects, logits))
        return losses


class FastCascadeRoIHead(_CompiledHeads, CascadeRoIHead):
    """mmdet's ``CascadeRoIHead`` with a faster training step, see :class:`FastRoIHead`.

    Raises:
        ConfigError: the assigner, the sampler, a head or a loss is not one of the usual ones.
    """

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        refuse({"mask_roi_extractor=None": self.with_mask and self.share_roi_extractor}, "CascadeRoIHead")
        if self.train_cfg:
            masks = self.mask_head if self.with_mask else [None] * self.num_stages
            parts = (self.bbox_assigner, self.bbox_sampler, self.train_cfg, self.bbox_head, masks)
            self.stages = [SecondStage(*own) for own in zip(*parts, strict=True)]

    def losses(
        self,
        features: tuple[Tensor, ...],  # [B, C, h, w] of every level
        proposals: Proposals,
        objects: Objects,
    ) -> dict[str, Tensor]:
        """Train every stage on the boxes of the one before, see :meth:`FastRoIHead.losses`."""
        levels = in_full_precision(features)
        losses: dict[str, Tensor] = {}
        for number, stage in enumerate(self.stages):
            regions = stage.regions(proposals, objects)
            head, extractor = self.bbox_head[number], self.bbox_roi_extractor[number]
            found = self._run(head, extractor(_inputs(extractor, levels), as_rois(regions.boxes)))
            own = stage.box_losses(head, regions, objects, *found)
            if self.with_mask:
                extractor = self.mask_roi_extractor[number]
                rois = as_rois(regions.object_boxes)
                logits = self._run(self.mask_head[number], extractor(_inputs(extractor, levels), rois))
                own.update(stage.mask_losses(self.mask_head[number], regions, objects, logits))
            weight = self.stage_loss_weights[number]
            losses.update({f"s{number}.{key}": x * weight if "loss" in key else x for key, x in own.items()})
            proposals = stage.refined(head, regions, objects, *found)
        return losses


def _inputs(extractor: Any, levels: list[Tensor]) -> list[Tensor]:
    return levels[: extractor.num_inputs]
