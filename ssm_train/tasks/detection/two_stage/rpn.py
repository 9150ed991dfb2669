"""mmdet's region proposals with a training step that does not wait for the device."""

from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.task_modules import AnchorGenerator
from mmengine.config import ConfigDict
from torch import Tensor

from ssm_core.errors import ConfigError
from ssm_train.tasks.detection.two_stage.assignment import AssignmentRule, Sample, SampleRule, assign, rows, sample
from ssm_train.tasks.detection.two_stage.deltas import Deltas
from ssm_train.tasks.detection.two_stage.losses import box_loss, check_box_loss, check_class_loss, sigmoid_loss
from ssm_train.tasks.detection.two_stage.objects import Objects
from ssm_train.tasks.detection.two_stage.refusal import refuse
from ssm_train.tasks.detection.two_stage.suppression import kept

_SHAPES = 64  # shapes of images whose anchors are kept: 6 MB each at 1333x800


def check_proposals(settings: ConfigDict) -> None:
    """Check how proposals are suppressed.

    Args:
        settings: mmdet's ``rpn_proposal``.

    Raises:
        ConfigError: not by ``nms`` with a threshold.
    """
    plain = settings.nms.get("type") == "nms" and set(settings.nms) <= {"type", "iou_threshold"}
    refuse({f"nms={dict(settings.nms)}": not plain}, "rpn_proposal")


@dataclass(frozen=True)
class Proposals:
    """Boxes that may hold objects.

    Attributes:
        boxes: the boxes, those with the highest scores first.
        valid: whether there is a box.
    """

    boxes: Tensor  # [B, P, 4]
    valid: Tensor  # [B, P] bool


@dataclass(frozen=True)
class _Anchors:
    """The anchors of one shape of feature maps."""

    boxes: Tensor  # [1, A, 4]
    corners: Tensor  # [A, 2]: top and left of the cell of the map, in pixels
    counts: list[int]  # of every level


class FastRPNHead(RPNHead):
    """mmdet's ``RPNHead`` with a faster training step, used by :class:`.FastTwoStageDetector`.

    The arguments, the losses and the proposals are those of mmdet. The losses of all levels are one sum. Proposals are
    ordered by logits, because many scores are equal in bfloat16.

    Raises:
        ConfigError: the anchors, the assigner, the sampler or a loss is not one of the usual ones.
    """

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self._anchors: dict[tuple[Any, ...], _Anchors] = {}
        if self.train_cfg:
            self.assignment = AssignmentRule.of(self.assigner)
            self.sampling = SampleRule.of(self.sampler)
            self.deltas = Deltas.of(self.bbox_coder)
            check_class_loss(self.loss_cls, "the RPN head", sigmoid=True)
            check_box_loss(self.loss_bbox, "the RPN head")
            refuse(
                {
                    "reg_decoded_bbox=True": self.reg_decoded_bbox,
                    "add_gt_as_proposals=True": self.sampling.with_objects,
                },
                "RPNHead",
            )
            if type(self.prior_generator) is not AnchorGenerator:
                kind = type(self.prior_generator).__name__
                raise ConfigError(f"the fast heads need AnchorGenerator as anchor_generator, not {kind}")

    def losses_and_proposals(
        self,
        features: tuple[Tensor, ...],  # [B, C, h, w] of every level
        objects: Objects,
        proposal_cfg: ConfigDict,
    ) -> tuple[dict[str, Tensor], Proposals]:
        """Train on anchors, and propose boxes for the second stage.

        Args:
            features: feature maps.
            objects: the objects of the images.
            proposal_cfg: mmdet's ``rpn_proposal``.
        """
        scores, deltas = self(features)
        anchors = self._anchors_of(scores)
        logits = [level.permute(0, 2, 3, 1).flatten(1).float() for level in scores]
        shifts = [level.permute(0, 2, 3, 1).reshape(len(level), -1, 4).float() for level in deltas]
        losses = self._losses(torch.cat(logits, 1), torch.cat(shifts, 1), anchors, objects)
        detached = [[level.detach() for level in levels] for levels in (logits, shifts)]
        return losses, self._proposals(*detached, anchors, objects, proposal_cfg)

    def _losses(
        self,
        logits: Tensor,  # [B, A]
        deltas: Tensor,  # [B, A, 4]
        anchors: _Anchors,
        objects: Objects,
    ) -> dict[str, Tensor]:
        taken = self._sample(anchors, objects)
        used = taken.positive | taken.negative
        positives, negatives = taken.positive.sum(1), taken.negative.sum(1)
        divisor = (positives.clamp(min=1) + negatives.clamp(min=1)).sum()
        weights = used.float()
        if self.train_cfg.pos_weight > 0:
            weights = torch.where(taken.positive, self.train_cfg.pos_weight, weights)
        classes = sigmoid_loss(self.loss_cls, taken.of(logits), taken.positive, weights, divisor)
        most = min(self.sampling.positives, taken.places.shape[1])
        first = taken.first(most)
        own = first.of(anchors.boxes.expand(len(logits), -1, -1))
        wanted = self.deltas.encode(own, rows(objects.boxes, first.objects))
        boxes = box_loss(self.loss_bbox, first.of(deltas), wanted, first.positive, divisor)
        return {"loss_rpn_cls": classes, "loss_rpn_bbox": boxes}

    def _sample(self, anchors: _Anchors, objects: Objects) -> Sample:
        # Cells beyond an image and its padding have no anchors.
        valid = (anchors.corners < objects.padded[:, None]).all(-1)
        border = self.train_cfg.allowed_border
        if border >= 0:
            left, top, right, bottom = anchors.boxes.unbind(-1)
            height, width = objects.sizes[:, :, None].unbind(1)
            valid &= (left >= -border) & (top >= -border) & (right < width + border) & (bottom < height + border)
        assigned = assign(self.assignment, objects.boxes, objects.real, anchors.boxes, valid)
        return sample(self.sampling, assigned)

    @torch.no_grad()
    def _proposals(
        self,
        logits: list[Tensor],  # [B, n] of every level
        deltas: list[Tensor],  # [B, n, 4]
        anchors: _Anchors,
        objects: Objects,
        settings: ConfigDict,
    ) -> Proposals:
        scores, boxes = [], []
        most = settings.get("nms_pre", -1)
        own = [level.expand(len(objects.boxes), -1, -1) for level in anchors.boxes.split(anchors.counts, 1)]
        for level, shifts, priors in zip(logits, deltas, own, strict=True):
            best, places = level.topk(min(most, level.shape[1]) if most > 0 else level.shape[1])
            scores.append(best)
            boxes.append(self.deltas.decode(rows(priors, places), rows(shifts, places), objects.sizes))
        smallest = settings.get("min_bbox_size", -1)
        sides = [level[..., 2:] - level[..., :2] for level in boxes]
        valid = [(own > smallest).all(-1) if smallest >= 0 else own.new_ones(own.shape[:2], dtype=torch.bool)
                 for own in sides]  # fmt: skip
        valid = kept(boxes, valid, settings.nms.iou_threshold)
        flat = torch.cat(scores, 1).masked_fill_(~torch.cat(valid, 1), -torch.inf)
        best, places = flat.topk(min(settings.max_per_img, flat.shape[1]))
        return Proposals(rows(torch.cat(boxes, 1), places), best > -torch.inf)

    def _anchors_of(self, maps: list[Tensor]) -> _Anchors:
        sizes, device = [tuple(level.shape[-2:]) for level in maps], maps[0].device
        key = (*sizes, device)
        if key not in self._anchors:
            if len(self._anchors) >= _SHAPES:
                self._anchors.clear()
            self._anchors[key] = self._make_anchors(sizes, device)
        return self._anchors[key]

    def _make_anchors(self, sizes: list[tuple[int, int]], device: torch.device) -> _Anchors:
        levels = self.prior_generator.grid_priors(sizes, device=device)
        corners = []
        for (height, width), (stride_x, stride_y), count in zip(
            sizes, self.prior_generator.strides, self.prior_generator.num_base_priors, strict=True
        ):
            top = torch.arange(height, device=device)[:, None, None].expand(height, width, count) * stride_y
            left = torch.arange(width, device=device)[:, None].expand(height, width, count) * stride_x
            corners.append(torch.stack([top, left], -1).flatten(0, 2))
        return _Anchors(torch.cat(levels)[None], torch.cat(corners), [len(level) for level in levels])
