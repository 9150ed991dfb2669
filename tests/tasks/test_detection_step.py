"""Compares the training step of our detectors of two stages with that of mmdet, for the same random choices."""

import copy

import pytest
import torch
from both_detectors import CHANNELS, COUNTS, SETTINGS, built, draw_samples, loaded, narrow, pair
from mmdet.models.detectors import CascadeRCNN, MaskRCNN
from mmdet.models.task_modules import RandomSampler
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from ssm_core.errors import ConfigError
from ssm_core.testing import assert_close
from ssm_train.tasks.detection import AnyDetDataPreprocessor, stack_objects

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
