"""Compares the training step of our detectors of two stages with that of mmdet, for the same random choices."""

import copy

import numpy as np
import pytest
import torch
from command_line import CONFIGS
from mmdet.models.detectors import CascadeRCNN, MaskRCNN
from mmdet.models.task_modules import AssignResult, DeltaXYWHBBoxCoder, MaxIoUAssigner, RandomSampler
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.ops import nms

from ssm_core.errors import ConfigError
from ssm_core.testing import assert_close
from ssm_train.data.collate import split_batch
from ssm_train.registry import MODELS
from ssm_train.tasks.detection import AnyDetDataPreprocessor, stack_objects
from ssm_train.tasks.detection.two_stage import suppression
from ssm_train.tasks.detection.two_stage.assignment import AssignmentRule, SampleRule, assign, sample
from ssm_train.tasks.detection.two_stage.deltas import Deltas

SHAPES = ((128, 160), (100, 160), (128, 130))  # of images; the last has anchors beyond its padding
COUNTS = (3, 0, 5)  # objects of the images
CHANNELS = 16
PLAIN = {"FastTwoStageDetector": MaskRCNN, "FastRPNHead": "RPNHead", "FastRoIHead": "StandardRoIHead",
         "FastCascadeRoIHead": "CascadeRoIHead"}  # fmt: skip


# --- Small detectors, ours and mmdet's


def narrow(name, **changes):
    """The model of a config with a small ResNet and narrow heads."""
    cfg = Config.fromfile(CONFIGS / "_base_" / "models" / f"{name}.py")
    model = cfg.model
    norm = {"type": "BN"}
    model.backbone = {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": (0, 1, 2, 3), "norm_cfg": norm}
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=CHANNELS)
    model.rpn_head.update(in_channels=CHANNELS, feat_channels=CHANNELS)
    heads = model.roi_head
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        if heads[extractor] is not None:
            heads[extractor].out_channels = CHANNELS
    boxes = heads.bbox_head if isinstance(heads.bbox_head, list) else [heads.bbox_head]
    for head in boxes:
        head.update(in_channels=CHANNELS, fc_out_channels=32, num_classes=4)
    if heads.mask_head is not None:
        heads.mask_head.update(in_channels=CHANNELS, conv_out_channels=CHANNELS, num_classes=4)
    if not isinstance(model.train_cfg.rcnn, list):
        # Later stages of a cascade take all boxes of the one before, so that their order does not matter.
        model.train_cfg.rcnn.sampler.num = 96
    cfg.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    return cfg.model


def built(model):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(copy.deepcopy(model))


def mmdets(model, detector=MaskRCNN):
    """The same model with mmdet's classes."""
    model = copy.deepcopy(model)
    model.type = detector
    for part in (model.rpn_head, model.roi_head):
        part.type = PLAIN[part.type.split(".")[-1]]
    return model


def pair(name, detector=MaskRCNN, **changes):
    """Our detector and mmdet's with the same weights, in float64."""
    model = narrow(name, **changes)
    torch.manual_seed(0)
    theirs, ours = built(mmdets(model, detector)), built(model)
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    ours.load_state_dict(theirs.state_dict())
    return ours.double().train(), theirs.double().train()


def draw_samples(counts=COUNTS, dtype=torch.float64, masks=True):
    draw, height, width = np.random.RandomState(1), 128, 160
    samples = []
    for count, (own_height, own_width) in zip(counts, SHAPES, strict=True):
        corners = draw.uniform(0, 90, (count, 2))
        ends = np.minimum(corners + draw.uniform(10, 60, (count, 2)), [own_width, own_height])
        boxes = np.concatenate([corners, ends], 1)
        pixels = np.zeros((count, height, width), np.uint8)
        for number, (left, top, right, bottom) in enumerate(boxes.astype(int)):
            pixels[number, top:bottom, left:right] = draw.rand(bottom - top, right - left) > 0.3
        padded = (own_height + -own_height % 32, own_width + -own_width % 32)
        sample = DetDataSample(metainfo={"img_shape": (own_height, own_width), "pad_shape": padded})
        labels = torch.from_numpy(draw.randint(0, 4, count))
        sample.gt_instances = InstanceData(bboxes=torch.from_numpy(boxes).to(dtype), labels=labels)
        if masks:
            sample.gt_instances.masks = BitmapMasks(pixels, height, width)
        samples.append(sample)
    return samples


# --- The same random choices for both


class Keys:
    """Records the random keys that our step draws, and lets mmdet's sampler choose by them."""

    def __init__(self, monkeypatch):
        self.drawn, self.patch = [], monkeypatch

    def record(self):
        real = torch.rand

        def rand(*shape, **options):
            self.drawn.append(real(*shape, **options))
            return self.drawn[-1]

        self.patch.setattr(torch, "rand", rand)

    def replay(self, candidates):
        """Give mmdet's sampler the keys of its candidates, by the number of its call."""
        calls, real = iter(candidates), RandomSampler.sample

        def sample(sampler, assigned, boxes, objects, **more):
            sampler.keys = next(calls)(len(boxes.priors), len(objects.bboxes))
            return real(sampler, assigned, boxes, objects, **more)

        self.patch.setattr(RandomSampler, "sample", sample)
        choose = lambda sampler, gallery, count: gallery[sampler.keys[gallery].topk(count)[1]]  # noqa: E731
        self.patch.setattr(RandomSampler, "random_choice", choose)

    def candidates(self, detector, images):
        """For each call of mmdet's sampler, a function from the numbers of its boxes and objects to their keys."""
        maps = detector.rpn_head(detector.extract_feat(images))[0]
        metas = [sample.metainfo for sample in draw_samples()]
        anchors, valid = detector.rpn_head.get_anchors([level.shape[-2:] for level in maps], metas, device="cpu")
        border = detector.rpn_head.train_cfg.allowed_border
        flags = [
            anchor_inside_flags(torch.cat(boxes), torch.cat(own), meta["img_shape"], border)
            for boxes, own, meta in zip(anchors, valid, metas, strict=True)
        ]
        found = [lambda boxes, objects, i=i: self.drawn[0][i][flags[i]] for i in range(len(images))]
        most = max(COUNTS)

        def second(keys, image):
            # Our candidates are the objects, as many in every image, and then the boxes.
            return lambda boxes, objects: torch.cat([keys[image][:objects], keys[image][most:][:boxes]])

        return found + [second(keys, image) for keys in self.drawn[1:] for image in range(len(images))]


def losses_of_both(ours, theirs, monkeypatch, samples=draw_samples):
    images = torch.randn(3, 3, 128, 160, dtype=torch.float64)
    keys = Keys(monkeypatch)
    with monkeypatch.context() as patch:
        keys.patch = patch
        keys.record()
        found = ours.loss(images, samples())
    keys.patch = monkeypatch
    keys.replay(keys.candidates(theirs, images))
    wanted = theirs.loss(images, samples())
    return found, {key: sum(value) if isinstance(value, list) else value.sum() for key, value in wanted.items()}


def assert_same_step(ours, theirs, found, wanted):
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        # mmdet computes the deltas of boxes in float32.
        assert found[key].item() == pytest.approx(value.item(), rel=1e-5), key
        assert value.item() > 0 or "acc" in key
    for losses in (found, wanted):
        sum(value for key, value in losses.items() if "loss" in key).backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    compared = 0
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            assert (gradients[name] - parameter.grad).norm() <= 1e-5 * parameter.grad.norm(), name
            compared += bool(parameter.grad.any())
    assert compared > 0.9 * sum(parameter.requires_grad for parameter in theirs.parameters())


OPTIONS = {
    "usual": {},
    "class-agnostic": {"roi_head.bbox_head.reg_class_agnostic": True, "roi_head.mask_head.class_agnostic": True},
    "smooth": {"rpn_head.loss_bbox": {"type": "SmoothL1Loss", "beta": 0.1, "_delete_": True},
               "roi_head.bbox_head.loss_bbox": {"type": "SmoothL1Loss", "loss_weight": 2.0, "_delete_": True}},
    "limits": {"train_cfg.rpn.allowed_border": 0, "train_cfg.rpn.pos_weight": 2.0, "train_cfg.rcnn.pos_weight": 3.0,
               "train_cfg.rpn.sampler.neg_pos_ub": 3, "train_cfg.rcnn.sampler.neg_pos_ub": 5,
               "train_cfg.rcnn.soft_mask_target": True, "train_cfg.rpn_proposal.nms_pre": 100,
               "train_cfg.rcnn.sampler.num": 40, "train_cfg.rcnn.assigner.neg_iou_thr": (0.1, 0.5)},
}  # fmt: skip


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_losses_and_gradients_of_mask_rcnn(changes, monkeypatch):
    ours, theirs = pair("mask-rcnn_fpn", **changes)
    assert_same_step(ours, theirs, *losses_of_both(ours, theirs, monkeypatch))


def test_losses_and_gradients_of_cascade_rcnn(monkeypatch):
    ours, theirs = pair("cascade-mask-rcnn_fpn", CascadeRCNN)
    assert_same_step(ours, theirs, *losses_of_both(ours, theirs, monkeypatch))


def test_step_of_images_without_objects():
    ours, _ = pair("mask-rcnn_fpn")
    losses = ours.loss(torch.randn(3, 3, 128, 160, dtype=torch.float64), draw_samples((0, 0, 0)))
    assert losses["loss_mask"] == losses["loss_bbox"] == losses["loss_rpn_bbox"] == 0
    assert losses["loss_rpn_cls"] > 0
    sum(value for key, value in losses.items() if "loss" in key).backward()
    assert all(parameter.grad.isfinite().all() for parameter in ours.parameters() if parameter.requires_grad)


# --- No waiting


def on_meta(samples):
    """Samples whose tensors have no values, so that nothing can depend on them."""
    for own in samples:
        own.gt_instances = own.gt_instances.to("meta")
    return samples


@pytest.mark.parametrize("name", ["mask-rcnn_fpn", "cascade-mask-rcnn_fpn"])
def test_step_reads_no_value_of_the_device(name):
    detector = CascadeRCNN if "cascade" in name else MaskRCNN
    ours, theirs = (model.float().to("meta") for model in pair(name, detector))
    images = torch.empty(3, 3, 128, 160, device="meta")
    losses = ours.loss(images, on_meta(draw_samples(dtype=torch.float32)))
    total = sum(value for key, value in losses.items() if "loss" in key)
    total.backward()
    assert total.shape == ()
    with pytest.raises((RuntimeError, NotImplementedError)):
        theirs.loss(images, on_meta(draw_samples(dtype=torch.float32)))


def test_step_finds_all_tensors_on_the_gpu(monkeypatch):
    """Fake tensors say that they are on a GPU, and refuse operators on tensors of two devices."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # which needs a GPU
    ours = pair("mask-rcnn_fpn")[0].float()
    preprocessor = AnyDetDataPreprocessor(**SETTINGS)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cuda", torch.bfloat16):
        batch = preprocessor.to("cuda")(stack_objects(loaded()), True)
        losses = ours.to("cuda").loss(**as_arguments(batch))
    assert {(value.device.type, value.dtype) for value in losses.values()} == {("cuda", torch.float32)}


def test_batch_is_prepared_without_reading_a_value():
    preprocessor = AnyDetDataPreprocessor(mean=[1.0] * 3, std=[2.0] * 3, bgr_to_rgb=True, pad_size_divisor=32)
    preprocessor.to("meta")
    batch = stack_objects(loaded())
    batch = {key: move(value) for key, value in batch.items()}
    batch = preprocessor(batch, True)
    assert batch["inputs"].shape == (3, 3, 128, 160)
    assert [len(sample.gt_instances) for sample in batch["data_samples"]] == list(COUNTS)


def move(value):
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    return [move(item) for item in value] if isinstance(value, list) else value


# --- Parts


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


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mask-rcnn_fpn", "cascade-mask-rcnn_fpn"])
def test_step_on_a_gpu_does_not_wait(name):
    ours = pair(name, CascadeRCNN if "cascade" in name else MaskRCNN)[0].float().cuda()
    preprocessor = AnyDetDataPreprocessor(**SETTINGS).cuda()
    batch = {key: pinned(value) for key, value in stack_objects(loaded()).items()}
    ours.loss(**as_arguments(preprocessor(copy.deepcopy(batch), True)))  # anchors are made once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            losses = ours.loss(**as_arguments(preprocessor(batch, True)))
        sum(value for key, value in losses.items() if "loss" in key).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite().all() for value in losses.values())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mask-rcnn_fpn", "cascade-mask-rcnn_fpn"])
def test_losses_on_a_gpu_are_those_of_the_cpu(name, monkeypatch):
    model, rand = pair(name, CascadeRCNN if "cascade" in name else MaskRCNN)[0], torch.rand
    monkeypatch.setattr(torch, "rand", lambda *shape, device: rand(*shape).to(device))  # the same on both
    images, losses = torch.randn(3, 3, 128, 160, dtype=torch.float64), []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        annotated = draw_samples()
        for own in annotated:
            own.gt_instances = own.gt_instances.to(device)
        losses.append(model.to(device).loss(images.to(device), annotated))
    for key, value in losses[0].items():
        assert losses[1][key].item() == pytest.approx(value.item(), rel=1e-5), key


def pinned(value):
    if isinstance(value, torch.Tensor):
        return value.pin_memory()
    return [pinned(item) for item in value] if isinstance(value, list) else value


def as_arguments(batch):
    return {"batch_inputs": batch["inputs"], "batch_data_samples": batch["data_samples"]}


# --- Batches


def loaded(masks=True):
    """What mmdet's pipelines load: images without padding, boxes of mmdet's type and masks of the size of the image."""
    samples = []
    for number, annotated in enumerate(draw_samples(dtype=torch.float32, masks=masks)):
        height, width = annotated.img_shape
        objects = annotated.gt_instances
        objects.bboxes = HorizontalBoxes(objects.bboxes)
        if masks:
            objects.masks = BitmapMasks(objects.masks.masks[:, :height, :width], height, width)
        annotated.ignored_instances = InstanceData(bboxes=HorizontalBoxes(torch.zeros(number % 2, 4)))
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.manual_seed(number))
        samples.append({"inputs": image, "data_samples": annotated})
    return samples


SETTINGS = {"mean": [100.0, 110.0, 120.0], "std": [50.0, 60.0, 70.0], "bgr_to_rgb": True, "pad_mask": True,
            "pad_size_divisor": 32, "pad_value": 3}  # fmt: skip


@pytest.mark.parametrize("masks", [True, False])
def test_stacked_batch_is_that_of_mmdet(masks):
    preprocessor = AnyDetDataPreprocessor(**SETTINGS)
    wanted = preprocessor(pseudo_collate(loaded(masks)), True)
    found = preprocessor(stack_objects(loaded(masks)), True)
    assert torch.equal(found["inputs"], wanted["inputs"])
    for ours, theirs in zip(found["data_samples"], wanted["data_samples"], strict=True):
        assert ours.metainfo == theirs.metainfo
        assert set(ours.gt_instances.keys()) == set(theirs.gt_instances.keys())
        assert torch.equal(ours.gt_instances.bboxes, theirs.gt_instances.bboxes)
        assert torch.equal(ours.gt_instances.labels, theirs.gt_instances.labels)
        assert len(ours.get("ignored_instances", ())) == len(theirs.ignored_instances)
        if masks:
            assert np.array_equal(ours.gt_instances.masks.masks, theirs.gt_instances.masks.masks)
            assert len(ours.gt_instances.masks) == len(theirs.gt_instances.masks)


def test_stacked_batch_is_split():
    batch = stack_objects(loaded())
    preprocessor = AnyDetDataPreprocessor(**SETTINGS)
    first, second = (preprocessor(part, True) for part in split_batch(batch, (1, 2)))
    assert [len(part["inputs"]) for part in (first, second)] == [1, 2]
    wanted = preprocessor(pseudo_collate(loaded()), True)["data_samples"]
    found = first["data_samples"] + second["data_samples"]
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours.gt_instances.bboxes, theirs.gt_instances.bboxes)
        assert np.array_equal(ours.gt_instances.masks.masks, theirs.gt_instances.masks.masks)


def test_batches_of_another_kind_are_left_to_mmengine():
    for change in ("float", "more"):
        samples = loaded()
        if change == "float":
            samples[1]["inputs"] = samples[1]["inputs"].float()
        else:
            samples[2]["data_samples"].gt_instances.more = torch.zeros(5)
        assert set(stack_objects(samples)) == {"inputs", "data_samples"}


def test_batches_are_padded_to_a_few_shapes():
    shapes = [(160, 320), (160, 192), (192, 160)]
    preprocessor = AnyDetDataPreprocessor(**SETTINGS, pad_shapes=shapes)
    assert preprocessor(stack_objects(loaded()), True)["inputs"].shape[2:] == (160, 192)
    plain = AnyDetDataPreprocessor(**SETTINGS)(stack_objects(loaded()), True)
    padded = preprocessor(stack_objects(loaded()), True)
    assert torch.equal(padded["inputs"][:, :, :128, :160], plain["inputs"])
    assert (padded["inputs"][:, :, 128:] == SETTINGS["pad_value"]).all()
    for ours, theirs in zip(padded["data_samples"], plain["data_samples"], strict=True):
        assert ours.pad_shape == theirs.pad_shape  # anchors beyond it are not trained on
        assert ours.gt_instances.masks.masks.shape[1:] == (160, 192)
    small = AnyDetDataPreprocessor(**SETTINGS, pad_shapes=[(64, 64)])
    assert small(stack_objects(loaded()), True)["inputs"].shape[2:] == (128, 160)
    large = AnyDetDataPreprocessor(**SETTINGS, pad_shapes=[(800, 1088)])
    assert large(stack_objects(loaded()), True)["inputs"].shape[2:] == (128, 160)
    for wrong in ([(160, 100)], [(160,)], [(0, 160)]):
        with pytest.raises(ConfigError, match="pad_shapes has"):
            AnyDetDataPreprocessor(**SETTINGS, pad_shapes=wrong)


def test_masks_on_the_device_train_mmdets_own_heads():
    ours, theirs = pair("mask-rcnn_fpn")
    batch = AnyDetDataPreprocessor(**SETTINGS)(stack_objects(loaded()), True)
    images = batch["inputs"].double()
    assert theirs.loss(images, copy.deepcopy(batch["data_samples"]))["loss_mask"] > 0
    assert ours.loss(images, batch["data_samples"])["loss_mask"] > 0


# --- What is refused


REFUSED = {
    "MaxIoUAssigner": ("train_cfg.rpn.assigner", {"type": "ATSSAssigner", "topk": 9, "_delete_": True}),
    "ignore_iof_thr": ("train_cfg.rcnn.assigner.ignore_iof_thr", 0.5),
    "gpu_assign_thr": ("train_cfg.rcnn.assigner.gpu_assign_thr", 10),
    "RandomSampler": ("train_cfg.rcnn.sampler.type", "OHEMSampler"),
    "use_sigmoid=True": ("rpn_head.loss_cls", {"type": "FocalLoss", "_delete_": True}),
    "L1Loss or SmoothL1Loss": ("roi_head.bbox_head.loss_bbox", {"type": "GIoULoss", "_delete_": True}),
    "reg_decoded_bbox": ("roi_head.bbox_head.reg_decoded_bbox", True),
    "class_weight": ("roi_head.bbox_head.loss_cls.class_weight", [1.0] * 5),
    "FCNMaskHead": ("roi_head.mask_head.type", "HTCMaskHead"),
    "soft_nms": ("train_cfg.rpn_proposal.nms.type", "soft_nms"),
    "batch norms": ("roi_head.mask_head.norm_cfg", {"type": "BN"}),
    "mask_roi_extractor=None": ("roi_head.mask_roi_extractor", None),
    "rpn_head of type": ("rpn_head.type", "RPNHead"),
    "roi_head of type": ("roi_head.type", "StandardRoIHead"),
    "AnchorGenerator": ("rpn_head.anchor_generator.type", "LegacyAnchorGenerator"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_other_settings_are_refused(message):
    key, value = REFUSED[message]
    with pytest.raises(ConfigError, match=message):
        built(narrow("mask-rcnn_fpn", **{key: value}))


# --- Compiled


def test_static_parts_are_compiled_with_the_backbone():
    ours, _ = pair("mask-rcnn_fpn")
    ours = ours.float()
    torch.compiler.reset()
    counters.clear()
    compiled = copy.deepcopy(ours)
    for module in compiled.modules():
        if getattr(module, "compiles_with_backbone", False):
            module.compile(backend="aot_eager", fullgraph=True)
    images = torch.randn(3, 3, 128, 160)
    results = []
    for model in (ours, compiled):
        torch.manual_seed(3)
        losses = model.loss(images, draw_samples(dtype=torch.float32))
        sum(value for key, value in losses.items() if "loss" in key).backward()
        results.append((losses, [parameter.grad for parameter in model.parameters()]))
    for key, value in results[0][0].items():
        assert_close(results[1][0][key], value, key)
    assert counters["stats"]["unique_graphs"] == 4  # neck, first stage, and two heads
    compiled.eval()
    with torch.no_grad():
        for count in (3, 5):  # numbers of boxes that are predicted
            compiled.roi_head.mask_head(torch.randn(count, CHANNELS, 14, 14))
    assert counters["stats"]["unique_graphs"] == 4
    for gradient, wanted in zip(results[1][1], results[0][1], strict=True):
        if wanted is not None:
            assert_close(gradient, wanted)
