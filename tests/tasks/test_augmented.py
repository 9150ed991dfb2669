"""Test-time augmentation: what is merged equals the versions of an image, predicted and merged one by one."""

from pathlib import Path

import blobs
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image
from torchvision.ops import batched_nms

from ssm_core.errors import ConfigError
from ssm_train.apis.prediction import prediction_config
from ssm_train.data.transforms import TestTransform
from ssm_train.runtime.config import load_config
from ssm_train.tasks import image_task_of
from ssm_train.tasks.augmented import augmented_pipeline, flips_of

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = CONFIGS / "quadmamba" / "quadmamba-nano_digits.py"
MASK = CONFIGS / "quadmamba" / "mask-rcnn_quadmamba-nano_nuclei-128x128.py"
UPERNET = CONFIGS / "mambatree" / "upernet_mambatree-nano_nuclei-128x128.py"
TINY = ["model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)"]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blobs")
    blobs.write(folder, images=1)
    return folder / "train" / "0.jpg"


@pytest.fixture(scope="module")
def pixels(image):
    return torch.from_numpy(np.array(Image.open(image))[..., ::-1].copy()).permute(2, 0, 1)  # blue first


def both(config, *options):
    """Return a task and a model of random weights, and the same of its augmented config with the same weights."""
    cfg = load_config(config, [*TINY, *options])
    task, augmented = image_task_of(cfg), image_task_of(prediction_config(cfg, tta=True))
    torch.manual_seed(3)
    model, merging = task.build(), augmented.build()
    merging.module.load_state_dict(model.state_dict())
    return task, model, augmented, merging


def prediction_of(task, model, image):
    return task.predict(model, task.collate([task.sample(image, "it")]))[0]


# --- Which versions


def test_a_test_flips_what_training_flips():
    nuclei = load_config(MASK)
    assert flips_of(nuclei, ("horizontal", "vertical")) == ["horizontal", "vertical"]
    nuclei.train_dataloader.dataset.pipeline[3].prob = 0.0
    assert flips_of(nuclei, ("horizontal",)) == []
    nuclei.train_dataloader = None
    assert flips_of(nuclei, ("horizontal", "vertical")) == ["horizontal"]
    assert prediction_config(load_config(DIGITS), True).test_dataloader.dataset.transform.flip is False
    photos = load_config(CONFIGS / "quadmamba" / "quadmamba-tiny_8xb128_in1k.py")
    assert prediction_config(photos, True).test_dataloader.dataset.transform.flip is True


def test_the_versions_of_a_pipeline():
    steps = [dict(type="ssm_train.LoadImage"), dict(type="ssm_train.tasks.detection.FixedSize", size=(128, 256)),
             dict(type="LoadAnnotations"), dict(type="PackDetInputs", meta_keys=("img_id",))]  # fmt: skip
    load, versions = augmented_pipeline(steps, ["vertical"])
    flips, sizes, annotations, pack = versions["transforms"]
    assert load == steps[0]
    assert flips == [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0, direction="vertical")]
    assert [step["size"] for step in sizes] == [(128, 256), (96, 192), (160, 320)], "multiples of 32"
    assert annotations == [steps[2]]
    assert pack == [dict(type="PackDetInputs", meta_keys=("img_id", "flip", "flip_direction"))]
    with pytest.raises(ConfigError, match="does not begin with a step that reads images"):
        augmented_pipeline(steps[1:], [])


# --- What is merged


@pytest.mark.parametrize("config", [DIGITS, CONFIGS / "quadmamba" / "quadmamba-tiny_image-folder.py"])
def test_a_classifier(config, image):
    task, model, augmented, merging = both(config)
    found = prediction_of(augmented, merging, image)
    settings = dict(task.cfg.test_dataloader.dataset.transform)
    settings.pop("type")
    ratio = settings.pop("crop_ratio", 0.875)
    channels = len(settings.get("mean", (0, 0, 0)))
    picture = Image.open(image).convert("L" if channels == 1 else "RGB")
    views = [TestTransform(**settings, crop_ratio=r)(picture) for r in (ratio, ratio / 1.15)]
    if config != DIGITS:
        views += [view.flip(-1) for view in views]
    with torch.inference_mode():
        expected = model.backbone(torch.stack(views)).softmax(1).mean(0)
    assert torch.allclose(found["probabilities"], expected, atol=1e-6)
    assert torch.allclose(found["scores"].softmax(0), expected, atol=1e-6)


def versions_of(pixels, flips):
    for direction in (None, *flips):
        dims = {None: (), "horizontal": (2,), "vertical": (1,), "diagonal": (1, 2)}[direction]
        for ratio in (1.0, 0.75, 1.25):
            yield dims, ratio, pixels.flip(dims) if dims else pixels


def resized(pixels, side):
    import cv2

    values = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    return torch.from_numpy(cv2.resize(values, (side, side), interpolation=cv2.INTER_LINEAR)).permute(2, 0, 1)


@pytest.mark.parametrize("masks", [True, False])
def test_a_detector(masks, image, pixels):
    from mmdet.structures import DetDataSample

    config = MASK if masks else CONFIGS / "mambatree" / "fcos_mambatree-nano_nuclei-128x128.py"
    score = "model.test_cfg.rcnn.score_thr=0.1" if masks else "model.test_cfg.score_thr=0.001"
    most = "model.test_cfg.rcnn.max_per_img=8" if masks else "model.test_cfg.max_per_img=8"
    _, model, augmented, merging = both(
        config, score, most, f"model.neck.in_channels={[8, 16, 16, 16] if masks else [16, 16, 16]}"
    )
    found = prediction_of(augmented, merging, image).pred_instances
    boxes, scores, labels, shapes = [], [], [], []
    for dims, ratio, version in versions_of(pixels, ("horizontal", "vertical", "diagonal")):
        side = round(128 * ratio)
        meta = dict(ori_shape=(64, 64), img_shape=(side, side), scale_factor=(side / 64, side / 64))
        batch = dict(inputs=[resized(version, side)], data_samples=[DetDataSample(metainfo=meta)])
        with torch.inference_mode(), DefaultScope.overwrite_default_scope("mmdet"):
            one = model.test_step(batch)[0].pred_instances
        back = one.bboxes.clone()
        for dim, (low, high) in ((2, (0, 2)), (1, (1, 3))):
            if dim in dims:
                back[:, low], back[:, high] = 64 - one.bboxes[:, high], 64 - one.bboxes[:, low]
        boxes.append(back)
        scores.append(one.scores)
        labels.append(one.labels)
        if masks:
            shapes.append(one.masks.flip(dims) if dims else one.masks)
    boxes, scores, labels = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    assert len(boxes) > 8
    kept = batched_nms(boxes, scores, labels, 0.5 if masks else 0.6)[:8]
    assert torch.allclose(found.bboxes, boxes[kept], atol=1e-3)
    assert torch.allclose(found.scores, scores[kept], atol=1e-5)
    assert torch.equal(found.labels, labels[kept])
    assert ("masks" in found) == masks
    if masks:
        assert torch.equal(found.masks, torch.cat(shapes)[kept])
        data = augmented.as_data(type("Found", (), {"pred_instances": found}), augmented.labels({}))
        assert len(data["objects"]) == 8


@pytest.mark.parametrize("channels", [3, 1])
def test_a_segmentor(channels, image, pixels):
    from mmseg.structures import SegDataSample

    options = ["model.decode_head.in_channels=[8,16,16,16]", "model.decode_head.channels=16",
               "model.auxiliary_head.in_channels=16"]  # fmt: skip
    if channels == 1:
        options += [f"model.{head}.{key}" for head in ("decode_head", "auxiliary_head")
                    for key in ("num_classes=2", "out_channels=1", "loss_decode.use_sigmoid=True")]  # fmt: skip
        options += ["model.decode_head.threshold=0.5"]
    _, model, augmented, merging = both(UPERNET, *options)
    found = prediction_of(augmented, merging, image).pred_sem_seg.data
    total = 0
    for dims, ratio, version in versions_of(pixels, ("horizontal", "vertical")):
        side = round(64 * ratio)
        meta = dict(ori_shape=(64, 64), img_shape=(side, side))
        batch = dict(inputs=[resized(version, side)], data_samples=[SegDataSample(metainfo=meta)])
        with torch.inference_mode(), DefaultScope.overwrite_default_scope("mmseg"):
            logits = model.test_step(batch)[0].seg_logits.data
        probabilities = logits.softmax(0) if channels > 1 else logits  # mmseg has taken the sigmoid
        total = total + (probabilities.flip(dims) if dims else probabilities)
    mean = total / 9
    expected = mean.argmax(0, keepdim=True) if channels > 1 else (mean > 0.5).long()
    ordered = mean.sort(0, descending=True).values
    clear = (ordered[:1] - ordered[1:2] if channels > 1 else (mean - 0.5).abs()) > 1e-5
    assert clear.float().mean() > 0.9
    assert torch.equal(found[clear], expected[clear])
    assert found.shape == (1, 64, 64)
