"""mmdet's second stages with a training step that does not wait for the device."""

from typing import Any

from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from torch import Tensor

from ssm_train.tasks.detection.roi_extractor import in_full_precision
from ssm_train.tasks.detection.two_stage.objects import Objects
from ssm_train.tasks.detection.two_stage.refusal import refuse
from ssm_train.tasks.detection.two_stage.regions import as_rois
from ssm_train.tasks.detection.two_stage.rpn import Proposals
from ssm_train.tasks.detection.two_stage.second_stage import SecondStage


class FastRoIHead(StandardRoIHead):
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
        found = self.bbox_head(
            self.bbox_roi_extractor(_inputs(self.bbox_roi_extractor, levels), as_rois(regions.boxes))
        )
        losses = self.stage.box_losses(self.bbox_head, regions, objects, *found)
        if self.with_mask:
            rois = as_rois(regions.with_objects)
            logits = self.mask_head(self.mask_roi_extractor(_inputs(self.mask_roi_extractor, levels), rois))
            losses.update(self.stage.mask_losses(self.mask_head, regions, objects, logits))
        return losses


class FastCascadeRoIHead(CascadeRoIHead):
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
            found = head(extractor(_inputs(extractor, levels), as_rois(regions.boxes)))
            own = stage.box_losses(head, regions, objects, *found)
            if self.with_mask:
                extractor = self.mask_roi_extractor[number]
                rois = as_rois(regions.with_objects)
                logits = self.mask_head[number](extractor(_inputs(extractor, levels), rois))
                own.update(stage.mask_losses(self.mask_head[number], regions, objects, logits))
            weight = self.stage_loss_weights[number]
            losses.update({f"s{number}.{key}": x * weight if "loss" in key else x for key, x in own.items()})
            proposals = stage.refined(head, regions, objects, *found)
        return losses


def _inputs(extractor: Any, levels: list[Tensor]) -> list[Tensor]:
    return levels[: extractor.num_inputs]
