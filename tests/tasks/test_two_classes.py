"""Segmentors of two classes, with one output or with two, and label maps in which all is ignored."""

import csv
import itertools
import json

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from small_tasks import segmentation

from ssm_core.errors import ConfigError
from ssm_train.apis import Predictor, train
from ssm_train.apis.infer import infer
from ssm_train.runtime.config import load_config
from ssm_train.tasks.segmentation import FastFCNHead, SegmentationMetric

NUMBER = itertools.count()  # mmengine shares loggers between runs of the same name and second
pytestmark = [
    pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False"),
    pytest.mark.filterwarnings("ignore:threshold is not defined for binary"),
    pytest.mark.filterwarnings("ignore:For binary segmentation"),
]
LOSSES = {
    "softmax": {"type": "mmseg.CrossEntropyLoss"},
    "softmax over what counts": {"type": "mmseg.CrossEntropyLoss", "avg_non_ignore": True},
    "weighted": {"type": "mmseg.CrossEntropyLoss", "class_weight": [1.0, 2.0]},
    "sigmoid": {"type": "mmseg.CrossEntropyLoss", "use_sigmoid": True},
    "sigmoid over what counts": {"type": "mmseg.CrossEntropyLoss", "use_sigmoid": True, "avg_non_ignore": True},
    "dice": {"type": "mmseg.DiceLoss", "ignore_index": 255},
}


def head(outputs, loss="sigmoid", **options):
    settings = {"in_channels": 4, "channels": 4, "num_classes": 2, "out_channels": outputs, "num_convs": 1}
    return FastFCNHead(**{**settings, "concat_input": False, "loss_decode": LOSSES[loss], **options})


def batch(labels):
    return [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in labels]


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_the_training_accuracy_of_one_output(threshold):
    """It counts what the prediction would be."""
    torch.manual_seed(0)
    one = head(1, threshold=threshold)
    logits = torch.randn(2, 1, 8, 8)
    labels = torch.randint(2, (2, 8, 8))
    labels[0, :3] = 255
    found = one.loss_by_feat(logits, batch(labels))["acc_seg"]
    predicted = torch.sigmoid(logits[:, 0]) > (threshold or 0.3)
    counted = [(p, t) for p, t in zip(predicted.flatten().tolist(), labels.flatten().tolist(), strict=True) if t != 255]
    assert found.item() == pytest.approx(100 * sum(p == t for p, t in counted) / len(counted))


@pytest.mark.parametrize(
    ("outputs", "loss"), [(2, name) for name in LOSSES] + [(1, name) for name in LOSSES if "sig" in name]
)
def test_maps_in_which_all_is_ignored(outputs, loss):
    """Loss and gradients are finite, with one such map beside another and with nothing else."""
    torch.manual_seed(0)
    one = head(outputs, loss)
    for ignored in (1, 2):
        labels = torch.randint(2, (2, 8, 8))
        labels[:ignored] = 255
        inputs = torch.randn(2, 4, 8, 8, requires_grad=True)
        losses = one.loss([inputs], batch(labels), {})
        total = sum(value for name, value in losses.items() if name.startswith("loss"))
        assert total.isfinite().all()
        assert losses["acc_seg"].isfinite()
        (gradient,) = torch.autograd.grad(total.sum(), inputs)
        assert gradient.isfinite().all()
        assert not gradient[0].any() or loss == "dice", "an ignored map teaches nothing"


def test_one_class_is_no_choice():
    with pytest.raises(ConfigError, match=r"one class learns nothing.*: name the background .* out_channels=1$"):
        head(None, "softmax", num_classes=1)


@pytest.mark.parametrize("outputs", [1, 2])
def test_two_classes_from_training_to_inference(tmp_path, outputs):
    small = segmentation(tmp_path / "data")
    Image.new("L", (64, 64), 255).save(tmp_path / "data" / "train_labels" / "0.png")
    meta = dict(classes=("ground", "thing"), palette=[(0, 0, 0), (200, 0, 0)])
    heads = ("decode_head", "auxiliary_head")
    options = [f"model.{name}.{key}" for name in heads for key in ("num_classes=2", f"out_channels={outputs}")]
    options += [f"model.{name}.loss_decode.use_sigmoid={outputs == 1}" for name in heads]
    options += ["visualizer.tensorboard=False", "default_hooks.curves.plot=False", "default_hooks.pictures.count=1"]
    cfg = load_config(small.config, [*small.options, *options, f"experiment_name=two{next(NUMBER)}"])
    for split in ("train", "val", "test"):
        cfg[f"{split}_dataloader"].dataset.metainfo = meta
    object.__setattr__(cfg, "_format_python_code", False)
    cfg.work_dir = str(tmp_path / "run")
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        result = train.train(cfg)
    assert all(np.isfinite(point["loss"]) for point in result.curves["train"])
    checkpoint = tmp_path / "run" / small.checkpoint
    cfg.experiment_name = f"two{next(NUMBER)}"
    metrics = train.test(cfg, checkpoint, tmp_path / "labels")
    assert np.isfinite(metrics["mIoU"])
    rows = list(csv.DictReader((tmp_path / "run" / "evaluation" / "test_classes.csv").open()))
    assert [row["class"] for row in rows][:2] == ["ground", "thing"]
    truth = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "data" / "val_labels").iterdir())]
    written = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "labels").iterdir())]
    assert metrics["aAcc"] == pytest.approx(100 * np.mean(np.equal(truth, written)), abs=0.01)

    predict = Predictor(cfg, checkpoint, "cpu", probabilities=True)
    found = predict(small.images)
    threshold = 0.3 if outputs == 1 else 0.5  # mmseg's own for one output
    for prediction, labels in zip(found, written, strict=True):
        assert np.array_equal(prediction["labels"], labels)
        assert prediction["probabilities"].shape == (2, 64, 64)
        np.testing.assert_allclose(prediction["probabilities"].sum(0), 1, rtol=1e-5)
        assert np.array_equal(prediction["probabilities"][1] > threshold, labels == 1)
    infer(predict, small.images, tmp_path / "out")
    shares = json.loads((tmp_path / "out" / "predictions.json").read_text())["0.png"]["shares"]
    assert shares.keys() <= {"ground", "thing"}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)


# --- Calibration


@pytest.mark.parametrize(("classes", "most"), [(4, 10_000), (4, 50), (1, 10_000)])
def test_the_calibration_error(classes, most):
    """It is torchmetrics' of all pixels that count, or of as many as are asked for of every image."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    torch.manual_seed(0)
    metric = SegmentationMetric(bins=7, pixels=most)
    metric.dataset_meta = {"classes": list("abcd")[: max(classes, 2)]}
    chosen, targets = [], []
    for _ in range(3):
        logits = 3 * torch.randn(classes, 12, 10)
        scores = logits if classes > 1 else logits.sigmoid()
        chances = logits.softmax(0) if classes > 1 else torch.cat([1 - scores, scores])
        label = torch.where(torch.rand(12, 10) < 0.5, chances.argmax(0), torch.randint(max(classes, 2), (12, 10)))
        label[:3] = 255
        data = {"pred_sem_seg": chances.argmax(0)[None], "gt_sem_seg": label[None], "seg_logits": scores}
        metric.process({}, [{name: {"data": values} for name, values in data.items()}])
        places = (label.flatten() != 255).nonzero()[:, 0]
        places = places[np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)]
        chosen.append(chances.flatten(1)[:, places].T)
        targets.append(label.flatten()[places])
    assert len(targets[0]) == min(most, 90)
    found = metric.evaluate(3)["ece"]
    expected = multiclass_calibration_error(torch.cat(chosen), torch.cat(targets), max(classes, 2), n_bins=7)
    assert found == pytest.approx(100 * expected.item(), rel=1e-5)
    assert found > 1


def test_nothing_to_calibrate():
    label = torch.full((1, 4, 4), 255)
    metrics = (SegmentationMetric(pixels=0), SegmentationMetric(), SegmentationMetric())
    for metric, logits in zip(metrics, (True, False, True), strict=True):
        metric.dataset_meta = {"classes": ["a", "b"]}
        data = {"pred_sem_seg": torch.zeros(1, 4, 4), "gt_sem_seg": label}
        data |= {"seg_logits": torch.randn(2, 4, 4)} if logits else {}
        metric.process({}, [{name: {"data": values} for name, values in data.items()}])
        assert "ece" not in metric.evaluate(1)
    with pytest.raises(ConfigError, match="needs at least one bin"):
        SegmentationMetric(bins=0)
