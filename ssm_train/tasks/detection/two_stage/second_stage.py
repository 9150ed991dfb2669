"""What a second stage trains on, and its losses, without waiting for the device."""

from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.utils import _pair

from ssm_core.errors import ConfigError
from ssm_train.tasks.detection.two_stage.assignment import AssignmentRule, Sample, SampleRule, assign, rows, sample
from ssm_train.tasks.detection.two_stage.deltas import Deltas
from ssm_train.tasks.detection.two_stage.losses import (
    accuracy,
    box_loss,
    check_box_loss,
    check_class_loss,
    mask_loss,
    softmax_loss,
)
from ssm_train.tasks.detection.two_stage.objects import Objects
from ssm_train.tasks.detection.two_stage.refusal import refuse
from ssm_train.tasks.detection.two_stage.regions import mask_targets
from ssm_train.tasks.detection.two_stage.rpn import Proposals

_OWN = ("loss", "loss_and_target", "get_targets")  # methods of box heads that are replaced here


@dataclass(frozen=True)
class Regions:
    """The boxes that a stage trains on.

    Attributes:
        boxes: the boxes. The first ``positives`` of an image are enough for all that belong to objects.
        sample: what they belong to.
        annotated: whether a box is that of an object itself, and no proposal.
        positives: number of places.
    """

    boxes: Tensor  # [B, S, 4]
    sample: Sample
    annotated: Tensor  # [B, S] bool
    positives: int

    @property
    def used(self) -> Tensor:  # [B, S] bool
        """Which places have a box."""
        return self.sample.positive | self.sample.negative

    @property
    def object_boxes(self) -> Tensor:  # [B, positives, 4]
        """The boxes that belong to objects, and empty ones in other places, which cost RoIAlign nothing."""
        first = slice(self.positives)
        return torch.where(self.sample.positive[:, first, None], self.boxes[:, first], 0)


class SecondStage:
    """The rules of one stage of mmdet's ``StandardRoIHead`` or ``CascadeRoIHead``.

    Args:
        assigner: mmdet's assigner.
        sampler: mmdet's sampler.
        settings: ``train_cfg`` of the stage.
        box_head: mmdet's head for boxes.
        mask_head: mmdet's head for masks; None without one.

    Raises:
        ConfigError: one of them has options that are not supported.
    """

    def __init__(
        self,
        assigner: Any,
        sampler: Any,
        settings: ConfigDict,
        box_head: nn.Module,
        mask_head: nn.Module | None,
    ):
        self.assignment, self.sampling = AssignmentRule.of(assigner), SampleRule.of(sampler)
        self.settings = settings
        if not isinstance(box_head, BBoxHead) or any(
            getattr(type(box_head), name) is not getattr(BBoxHead, name) for name in _OWN
        ):
            raise ConfigError(
                f"the fast heads need a bbox_head with the losses of BBoxHead, and {type(box_head).__name__} has others"
            )
        name = type(box_head).__name__
        refuse(
            {
                "with_cls=False": not box_head.with_cls,
                "with_reg=False": not box_head.with_reg,
                "reg_decoded_bbox=True": box_head.reg_decoded_bbox,
                "another predict_box_type than hbox": box_head.predict_box_type != "hbox",
                # Their statistics would count places without a box.
                "batch norms": _has_batch_norm(box_head),
            },
            name,
        )
        check_class_loss(box_head.loss_cls, name)
        check_box_loss(box_head.loss_bbox, name)
        self.deltas = Deltas.of(box_head.bbox_coder)
        if mask_head is not None:
            if type(mask_head) is not FCNMaskHead:
                raise ConfigError(f"the fast heads need FCNMaskHead as mask_head, not {type(mask_head).__name__}")
            refuse({"batch norms": _has_batch_norm(mask_head)}, "FCNMaskHead")
            check_class_loss(mask_head.loss_mask, "FCNMaskHead", mask=True)
            self.mask_size = _pair(settings.mask_size)

    @torch.no_grad()
    def regions(self, proposals: Proposals, objects: Objects) -> Regions:
        """Draw the boxes to train on.

        Args:
            proposals: boxes of the stage before.
            objects: the objects.
        """
        assigned = assign(self.assignment, objects.boxes, objects.real, proposals.boxes, proposals.valid)
        boxes, count = proposals.boxes, 0
        if self.sampling.with_objects:
            count = objects.real.shape[1]
            numbers = torch.arange(1, count + 1, device=boxes.device)
            assigned = torch.cat([torch.where(objects.real, numbers, -1), assigned], 1)
            boxes = torch.cat([objects.boxes, boxes], 1)
        taken, positives = sample(self.sampling, assigned), self.sampling.positives
        if boxes.device.type == "cpu":  # which computes empty places too, and has nothing to wait for
            positives = max(int(taken.positive.sum(1).max()), 1)
            taken = taken.first(max(int((taken.positive | taken.negative).sum(1).max()), 1))
        return Regions(
            boxes=torch.where((taken.positive | taken.negative)[..., None], taken.of(boxes), 0),
            sample=taken,
            annotated=taken.positive & (taken.places < count),
            positives=min(positives, taken.places.shape[1]),
        )

    def box_losses(
        self,
        head: BBoxHead,
        regions: Regions,
        objects: Objects,
        logits: Tensor,  # [B·S, classes + 1]
        deltas: Tensor,  # [B·S, 4] or [B·S, classes · 4]
    ) -> dict[str, Tensor]:
        """Losses of classes and boxes, and the accuracy of the classes.

        Args:
            head: the head.
            regions: the boxes.
            objects: the objects.
            logits: its logits.
            deltas: its deltas, of each class unless the head is class-agnostic.
        """
        taken, used, most = regions.sample, regions.used, regions.positives
        classes = rows(objects.labels, taken.objects)
        labels = torch.where(taken.positive, classes, head.num_classes).flatten()
        weights = used.to(logits.dtype)
        if self.settings.pos_weight > 0:
            weights = torch.where(taken.positive, self.settings.pos_weight, weights)
        deltas = deltas.view(*used.shape, -1, 4)[:, :most]
        own = classes[:, :most, None] * (not head.reg_class_agnostic)
        found = rows(deltas.flatten(0, 1), own.flatten(0, 1))[:, 0].view(len(used), most, 4)
        targets = rows(objects.boxes, taken.objects[:, :most])
        wanted = self.deltas.encode(regions.boxes[:, :most], targets)
        return {
            "loss_cls": softmax_loss(head.loss_cls, logits, labels, weights.flatten()),
            "acc": accuracy(logits.detach(), labels, used.flatten()),
            "loss_bbox": box_loss(head.loss_bbox, found, wanted, taken.positive[:, :most], used.sum()),
        }

    def mask_losses(
        self,
        head: FCNMaskHead,
        regions: Regions,
        objects: Objects,
        logits: Tensor,  # [B·positives, classes, h, w]
    ) -> dict[str, Tensor]:
        """The loss of masks.

        Args:
            head: the head.
            regions: the boxes.
            objects: the objects, with masks.
            logits: of the first boxes of each image.
        """
        taken, most = regions.sample, regions.positives
        numbers, counts = taken.objects[:, :most], taken.positive[:, :most].flatten()
        binary = not self.settings.get("soft_mask_target", False)
        targets = mask_targets(objects, regions.object_boxes, numbers, self.mask_size, binary)
        classes = rows(objects.labels, numbers).flatten() * (not head.class_agnostic)
        found = rows(logits, classes[:, None])[:, 0]
        return {"loss_mask": mask_loss(head.loss_mask, found.to(targets.dtype), targets, counts)}

    @torch.no_grad()
    def refined(
        self,
        head: BBoxHead,
        regions: Regions,
        objects: Objects,
        logits: Tensor,  # [B·S, classes + 1]
        deltas: Tensor,  # [B·S, 4] or [B·S, classes · 4]
    ) -> Proposals:
        """The boxes for the next stage: those of this one with their deltas, without those of the objects themselves.

        See :meth:`box_losses` for the arguments.
        """
        taken = regions.sample
        found = logits[:, :-1].argmax(1).view(taken.places.shape)
        classes = torch.where(taken.positive, rows(objects.labels, taken.objects), found)
        own = classes.flatten()[:, None] * (not head.reg_class_agnostic)
        shifts = rows(deltas.view(len(deltas), -1, 4), own).view(*classes.shape, 4).to(regions.boxes.dtype)
        boxes = self.deltas.decode(regions.boxes, shifts, objects.sizes)
        return Proposals(boxes, regions.used & ~regions.annotated)


def _has_batch_norm(head: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in head.modules())
