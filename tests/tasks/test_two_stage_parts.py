"""Compares the parts of our detectors of two stages with those of mmdet and torchvision."""

import pytest
import torch
from mmdet.models.task_modules import AssignResult, DeltaXYWHBBoxCoder, MaxIoUAssigner, RandomSampler
from mmengine.structures import InstanceData
from torchvision.ops import nms

from ssm_core.testing import assert_close
from ssm_train.tasks.detection.two_stage import suppression
from ssm_train.tasks.detection.two_stage.assignment import AssignmentRule, SampleRule, assign, sample
from ssm_train.tasks.detection.two_stage.deltas import Deltas


def compare_assignment(assigner, boxes, real, candidates, valid):
    found = assign(AssignmentRule.of(assigner), boxes, real, candidates, valid)
    for image in range(len(boxes)):
        objects = boxes[image][real[image]]
        wanted = assigner.assign(
            InstanceData(priors=candidates[image][valid[image]]),
            InstanceData(bboxes=objects, labels=torch.zeros(len(objects), dtype=torch.long)),
        ).gt_inds
        assert torch.equal(found[image][valid[image]], wanted)
        assert (found[image][~valid[image]] == -1).all()


def random_boxes(*shape, side=12, scale=4.0):
    """Boxes on a coarse grid, so that many overlaps are equal."""
    corners = torch.randint(0, side, (*shape, 2)).float()
    return torch.cat([corners, corners + torch.randint(1, side, (*shape, 2)).float()], -1) * scale


RULES = {
    "first stage": {"pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3},
    "second stage": {"pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5, "match_low_quality": False},
    "two limits": {"pos_iou_thr": 0.6, "neg_iou_thr": (0.1, 0.4), "min_pos_iou": 0.0},
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_assignment(rule):
    torch.manual_seed(0)
    assigner = MaxIoUAssigner(**rule)
    boxes, candidates = random_boxes(8, 9), random_boxes(8, 400)
    real = torch.arange(9) < torch.tensor([0, 1, 2, 3, 5, 7, 8, 9])[:, None]
    compare_assignment(assigner, boxes, real, candidates, torch.rand(8, 400) < 0.8)


def test_assignment_of_many_pairs_goes_image_by_image(monkeypatch):
    monkeypatch.setattr("ssm_train.tasks.detection.two_stage.assignment._PAIRS", 10)
    test_assignment(RULES["first stage"])


@pytest.mark.parametrize("settings", [(64, 0.25, -1), (64, 0.25, 2), (500, 0.5, -1)], ids=["usual", "limit", "few"])
def test_sample_has_the_counts_of_mmdet(settings):
    torch.manual_seed(0)
    sampler = RandomSampler(*settings, add_gt_as_proposals=False)
    shares = torch.tensor([0.0, 0.001, 0.02, 0.1, 0.5, 1.0])[:, None]
    assigned = torch.where(torch.rand(6, 600) < shares, torch.randint(1, 5, (6, 600)), torch.randint(-1, 1, (6, 600)))
    taken, classes = sample(SampleRule.of(sampler), assigned), torch.arange(4)
    for image, own in enumerate(assigned):
        result = AssignResult(4, own.clone(), torch.zeros(600), labels=torch.zeros(600, dtype=torch.long))
        wanted = sampler.sample(
            result,
            InstanceData(priors=torch.zeros(600, 4)),
            InstanceData(bboxes=torch.zeros(4, 4), labels=classes),
        )
        positive, negative = taken.positive[image], taken.negative[image]
        assert (positive.sum(), negative.sum()) == (len(wanted.pos_inds), len(wanted.neg_inds))
        places = taken.places[image]
        assert len(places[positive | negative].unique()) == positive.sum() + negative.sum()
        assert (own[places[positive]] == taken.objects[image][positive] + 1).all()
        assert (own[places[negative]] == 0).all()
        assert not positive[int(settings[0] * settings[1]) :].any()


def test_every_candidate_is_sampled_as_often():
    torch.manual_seed(0)
    rule = SampleRule(number=30, positives=10, negatives_each=None, with_objects=False)
    assigned = torch.cat([torch.ones(40), torch.zeros(60), -torch.ones(10)]).long().expand(4000, -1)
    taken = sample(rule, assigned)
    used = taken.positive | taken.negative
    counts = torch.zeros(110).index_add_(0, taken.places[used], torch.ones(int(used.sum())))
    # 10 of 40 and 20 of 60. A count of 4,000 draws has a standard deviation below 30.
    assert (counts[:40] - 1000).abs().max() < 150
    assert (counts[40:100] - 4000 / 3).abs().max() < 150
    assert counts[100:].sum() == 0


def test_deltas():
    torch.manual_seed(0)
    coder = DeltaXYWHBBoxCoder(target_means=(0.1, 0.2, 0.3, 0.4), target_stds=(0.1, 0.2, 0.3, 0.4))
    boxes, targets = random_boxes(2, 50), random_boxes(2, 50)
    ours, sizes = Deltas.of(coder), torch.tensor([[60, 70], [50, 40]])
    assert_close(ours.encode(boxes, targets), coder.encode(boxes, targets))
    shifts = torch.randn(2, 50, 4) * 10
    found = ours.decode(boxes, shifts, sizes)
    for image in range(2):
        assert_close(found[image], coder.decode(boxes[image], shifts[image], max_shape=sizes[image].tolist()))


def clouds(device="cpu"):
    """Groups of boxes, most of which overlap others."""
    torch.manual_seed(0)
    groups, valid = [], []
    for count, spread in ((300, 3.0), (500, 20.0), (1, 1.0)):
        centres = torch.rand(2, 6, 2).gather(1, torch.randint(6, (2, count, 1)).expand(-1, -1, 2)) * 400
        centres, sides = (
            centres + torch.randn(2, count, 2) * spread,
            80 * (torch.randn(2, count, 2) * spread / 100).exp(),
        )
        groups.append(torch.cat([centres - sides, centres + sides], -1))
        valid.append(torch.rand(2, count) < 0.9)
    return [group.to(device) for group in groups], [own.to(device) for own in valid]


def compare_suppression(groups, valid, threshold):
    found = suppression.kept(groups, valid, threshold)
    for group, own, kept in zip(groups, valid, found, strict=True):
        for boxes, counts, result in zip(group, own, kept, strict=True):
            numbers = counts.nonzero()[:, 0]
            wanted = numbers[nms(boxes[numbers], -numbers.float(), threshold)]
            assert torch.equal(result.nonzero()[:, 0], wanted.sort()[0])
    assert sum(kept.sum() for kept in found) < sum(own.sum() for own in valid)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_suppression_is_that_of_torchvision(threshold, monkeypatch):
    rounds, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *factors: rounds.append(0) or bmm(*factors))
    compare_suppression(*clouds(), threshold)
    assert 2 < len(rounds) < suppression.ROUNDS  # the last finds that nothing changes


@pytest.mark.gpu
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_suppression_on_a_gpu(threshold):
    compare_suppression(*clouds("cuda"), threshold)
