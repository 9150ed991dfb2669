"""Assignment of boxes to objects and random samples of them, as tensors of one size.

mmdet computes lists of indices, whose lengths the host has to wait for. Here every image has the same number of places,
and masks say which of them are used. The rules are those of mmdet's ``MaxIoUAssigner`` and ``RandomSampler``.
"""

from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.task_modules import BboxOverlaps2D, MaxIoUAssigner, RandomSampler
from torch import Tensor

from ssm_core.errors import ConfigError
from ssm_train.tasks.detection.two_stage.refusal import refuse

_PAIRS = 2**26  # pairs of an object and a box that are compared at a time; each takes some 30 bytes


@dataclass(frozen=True)
class AssignmentRule:
    """Which boxes belong to an object, and which to the background.

    Attributes:
        positive: overlap from which on a box belongs to the object that it overlaps most.
        negative: least and largest overlap of the background, the latter excluded.
        low_quality: whether every object has the boxes that overlap it most, whatever they overlap more.
        least: overlap from which on an object has those.
    """

    positive: float
    negative: tuple[float, float]
    low_quality: bool
    least: float

    @classmethod
    def of(cls, assigner: Any) -> "AssignmentRule":
        """The rule of mmdet's assigner.

        Raises:
            ConfigError: the assigner is another one, or has options that are not supported.
        """
        if type(assigner) is not MaxIoUAssigner or type(assigner.iou_calculator) is not BboxOverlaps2D:
            raise ConfigError(
                f"the fast heads assign boxes by MaxIoUAssigner with BboxOverlaps2D alone, not by {_name(assigner)}: "
                "use mmdet's RPNHead, StandardRoIHead and MaskRCNN for others"
            )
        unsupported = {
            "gt_max_assign_all=False": not assigner.gt_max_assign_all,
            "ignore_iof_thr above 0": assigner.ignore_iof_thr > 0,
            "gpu_assign_thr above 0": assigner.gpu_assign_thr > 0,
            "perm_repeat_gt_cfg": assigner.perm_repeat_gt_cfg is not None,
        }
        refuse(unsupported, "MaxIoUAssigner")
        below = assigner.neg_iou_thr
        negative = (0.0, below) if isinstance(below, float) else (below[0], below[1])
        return cls(assigner.pos_iou_thr, negative, assigner.match_low_quality, assigner.min_pos_iou)


@dataclass(frozen=True)
class SampleRule:
    """How many boxes of an image are trained on.

    Attributes:
        number: boxes of an image.
        positives: the most of them that belong to objects.
        negatives_each: the most boxes of the background for each box of an object; None for no limit.
        with_objects: whether the boxes of the objects themselves are candidates.
    """

    number: int
    positives: int
    negatives_each: float | None
    with_objects: bool

    @classmethod
    def of(cls, sampler: Any) -> "SampleRule":
        """The rule of mmdet's sampler.

        Raises:
            ConfigError: the sampler is another one.
        """
        if type(sampler) is not RandomSampler:
            raise ConfigError(
                f"the fast heads sample boxes by RandomSampler alone, not by {_name(sampler)}: use mmdet's RPNHead, "
                "StandardRoIHead and MaskRCNN for others"
            )
        each = sampler.neg_pos_ub if sampler.neg_pos_ub >= 0 else None
        return cls(sampler.num, int(sampler.num * sampler.pos_fraction), each, sampler.add_gt_as_proposals)


@dataclass(frozen=True)
class Sample:
    """The boxes of every image that are trained on. Those that belong to objects are the first.

    Attributes:
        places: numbers of candidates. No number occurs twice in an image.
        positive: whether a place has a box that belongs to an object.
        negative: whether it has a box of the background. A place may be empty.
        objects: number of the object in its image; 0 where there is none.
    """

    places: Tensor  # [B, S]
    positive: Tensor  # [B, S] bool
    negative: Tensor  # [B, S] bool
    objects: Tensor  # [B, S]

    def of(
        self,
        values: Tensor,  # [B, candidates, ...]
    ) -> Tensor:  # [B, S, ...]
        """The values of the sampled candidates."""
        return rows(values, self.places)

    def first(self, count: int) -> "Sample":
        """The first places of every image."""
        parts = (self.places, self.positive, self.negative, self.objects)
        return Sample(*(part[:, :count] for part in parts))


def overlaps_of(
    one: Tensor,  # [B, N, 4]
    other: Tensor,  # [B, A, 4] or [1, A, 4]
) -> Tensor:  # [B, N, A]
    """Intersection over union of all pairs of boxes, as mmdet computes it."""
    left, top, right, bottom = (one[:, :, None] + 0).unbind(-1)
    other_left, other_top, other_right, other_bottom = other[:, None].unbind(-1)
    inside = (torch.minimum(right, other_right) - torch.maximum(left, other_left)).clamp_(min=0)
    inside = inside * (torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)).clamp_(min=0)
    areas, other_areas = (right - left) * (bottom - top), (other_right - other_left) * (other_bottom - other_top)
    union = (areas + other_areas).sub_(inside).clamp_(min=1e-6)
    return inside.div_(union)


@torch.no_grad()
def assign(
    rule: AssignmentRule,
    objects: Tensor,  # [B, N, 4]
    real: Tensor,  # [B, N] bool
    candidates: Tensor,  # [B, A, 4] or [1, A, 4]
    valid: Tensor,  # [B, A] bool
) -> Tensor:  # [B, A]
    """The object that each candidate belongs to.

    Args:
        rule: the rule.
        objects: boxes of the objects.
        real: whether there is an object.
        candidates: boxes, or the same boxes for all images.
        valid: whether a candidate counts.

    Returns:
        The number of an object from 1, 0 for the background, or -1 for none of them.
    """
    batch, count = objects.shape[:2]
    if batch > 1 and batch * count * candidates.shape[1] > _PAIRS:
        own = candidates.expand(batch, -1, -1)
        parts = [slice(number, number + 1) for number in range(batch)]
        return torch.cat([assign(rule, objects[part], real[part], own[part], valid[part]) for part in parts])
    overlaps = overlaps_of(objects, candidates).masked_fill_(~(real[:, :, None] & valid[:, None]), -1)
    best, nearest = overlaps.max(1)
    least, most = rule.negative
    assigned = torch.where((best >= least) & (best < most), 0, -1)
    assigned = torch.where(best >= rule.positive, nearest + 1, assigned)
    if rule.low_quality:
        own_best = overlaps.amax(2, keepdim=True)  # [B, N, 1]
        matched = (overlaps == own_best) & (own_best >= rule.least) & real[:, :, None]
        # Where several objects have the same box, mmdet gives it to the last one.
        last = (matched * torch.arange(1, count + 1, dtype=torch.int32, device=real.device)[:, None]).amax(1)
        assigned = torch.where(last > 0, last, assigned)
    assigned = torch.where(real.any(1)[:, None], assigned, 0)  # an image without objects is all background
    return assigned.masked_fill_(~valid, -1)


@torch.no_grad()
def sample(
    rule: SampleRule,
    assigned: Tensor,  # [B, A], see :func:`assign`
) -> Sample:
    """Draw candidates at random, from torch's generator of the device.

    Args:
        rule: the rule.
        assigned: what each candidate belongs to.
    """
    # Every candidate has a random key, and those with the largest keys are taken.
    keys = torch.rand(assigned.shape, device=assigned.device)
    positives, chosen = _largest(keys, assigned > 0, rule.positives)
    found = chosen.sum(1, keepdim=True)
    wanted = rule.number - found
    if rule.negatives_each is not None:
        wanted = torch.minimum(wanted, (found.clamp(min=1) * rule.negatives_each).long())
    negatives, among = _largest(keys, assigned == 0, rule.number)
    among = among & (torch.arange(negatives.shape[1], device=keys.device) < wanted)
    places, chosen = torch.cat([positives, negatives], 1), torch.cat([chosen, among], 1)
    # Empty places between the two go to the end.
    length = chosen.shape[1]
    rank = chosen * torch.arange(length, 0, -1, dtype=torch.int32, device=keys.device)
    rank, order = rank.topk(min(rule.number, length))
    places, filled, positive = places.gather(1, order), rank > 0, order < positives.shape[1]
    objects = (assigned.gather(1, places) - 1).clamp_(min=0)
    return Sample(places, filled & positive, filled & ~positive, objects)


def _largest(keys: Tensor, among: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places of the largest keys of some candidates, and which of these places are used."""
    found, places = keys.masked_fill(~among, -1).topk(min(count, keys.shape[1]))
    return places, found >= 0


def rows(
    values: Tensor,  # [B, A, ...]
    places: Tensor,  # [B, S]
) -> Tensor:  # [B, S, ...]
    """Rows of every image."""
    shape = (*places.shape, *values.shape[2:])
    return values.gather(1, places.view(*places.shape, *[1] * (values.ndim - 2)).expand(shape))


def _name(part: object) -> str:
    return type(part).__name__
