"""Tests of the classifier and of its accuracy."""

import copy
import csv
import json
from typing import ClassVar

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import sklearn.utils
import torch
from timm.loss import BinaryCrossEntropy
from torch.nn import functional as F
from torch.utils.data import default_collate
from torchmetrics.classification import MulticlassCalibrationError
from torchvision.ops import sigmoid_focal_loss

from ssm_core.errors import CheckpointError, ConfigError
from ssm_train.data.datasets import collate_images, problems_of
from ssm_train.tasks.classification.classifier import ImageClassifier
from ssm_train.tasks.classification.losses import balanced_weights, binary_cross_entropy, cross_entropy
from ssm_train.tasks.classification.metrics import Accuracy, MultiLabelMetric, rank_of_label
from ssm_train.tasks.classification.predictions import ScoreWriter

NETWORK = dict(type="ssm_train.timm", name="test_efficientnet_gn", num_classes=6, in_chans=1)


def make(**options):
    torch.manual_seed(0)
    return ImageClassifier(NETWORK, **options).eval()


X = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
SAMPLES = {"label": torch.tensor([0, 5, 2, 2]), "index": torch.arange(4), "unreadable": {2: "x"}}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss(smoothing):
    model = make(label_smoothing=smoothing)
    expected = F.cross_entropy(model(X), SAMPLES["label"], label_smoothing=smoothing)
    torch.testing.assert_close(model(X, SAMPLES, mode="loss")["loss"], expected)


def test_mixed_loss():
    model = make(label_smoothing=0.1, mixup_alpha=0.8, cutmix_alpha=1.0)
    kept = X.clone()
    for seed in range(4):
        np.random.seed(seed)
        actual = model(X, SAMPLES, mode="loss")["loss"]
        np.random.seed(seed)
        inputs, target = model.mixup(X.clone(), SAMPLES["label"])
        expected = -(target * model(inputs).log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(target.sum(1), torch.ones(4))
    assert torch.equal(X, kept), "the batch itself is not mixed"


def test_odd_batch_cannot_be_mixed():
    samples = {"label": SAMPLES["label"][:3]}
    with pytest.raises(ConfigError, match=r"a batch has 3: make train_dataloader\.batch_size even"):
        make(mixup_alpha=0.8)(X[:3], samples, mode="loss")


def test_predictions():
    model = make()
    rows = model(X, SAMPLES, mode="predict")
    assert torch.equal(torch.stack([row["scores"] for row in rows]), model(X))
    assert [int(row["label"]) for row in rows] == [0, 5, 2, 2]
    assert [row["unreadable"] for row in rows] == ["", "", "x", ""]


def test_a_batch_keeps_only_what_is_unreadable():
    images = torch.randn(3, 1, 2, 2)
    samples = [
        {
            "inputs": image,
            "data_samples": {"label": i, "index": 7 + i, "unreadable": "x.png (cut off)" if i == 1 else ""},
        }
        for i, image in enumerate(images)
    ]
    batch = collate_images(samples)
    assert torch.equal(batch["inputs"], images)
    kept = batch["data_samples"]
    assert (kept["label"].tolist(), kept["index"].tolist()) == ([0, 1, 2], [7, 8, 9])
    assert problems_of(kept) == {1: "x.png (cut off)"}
    assert samples[1]["data_samples"]["unreadable"] == "x.png (cut off)"
    with pytest.raises(ConfigError, match=r"needs collate_fn=dict\(type=\"ssm_train.collate_images\"\)"):
        make()(X[:3], default_collate(samples)["data_samples"], mode="predict")


def test_rank():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.5, 0.5, 0.5], [float("nan"), 1.0, 2.0]])
    assert rank_of_label(scores, torch.tensor([0, 0, 2])).tolist() == [2, 0, 3]
    assert rank_of_label(scores, torch.tensor([1, 2, 1])).tolist() == [0, 2, 3]
    random = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    label = torch.arange(50) % 20
    expected = (random.argsort(1, descending=True) == label[:, None]).int().argmax(1)
    assert torch.equal(rank_of_label(random, label), expected)


def evaluated(scores, labels, **options):
    """Return the figures of a metric and its report, given in two batches."""
    metric = Accuracy(**options)
    metric.dataset_meta = {"classes": [f"class {i}" for i in range(scores.shape[1])]}
    rows = [dict(scores=s, probabilities=s.softmax(0), label=y) for s, y in zip(scores, labels, strict=True)]
    metric.process({}, rows[: len(rows) // 3])
    metric.process({}, rows[len(rows) // 3 :])
    return metric.evaluate(size=len(rows)), metric.report


def test_figures_are_those_of_scikit_learn():
    # Five classes: the last has no images and one prediction, the one before has neither.
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (90,), generator=draw)
    scores = torch.randn(90, 5, generator=draw) + 2 * torch.eye(5)[labels]
    scores[:, 3:] -= 9
    scores[7, 4] = 20
    metrics, report = evaluated(scores, labels, topk=(1, 2))
    guess, seen = scores.argmax(1), [0, 1, 2, 4]
    for k in (1, 2):
        expected = sklearn.metrics.top_k_accuracy_score(labels, scores.numpy(), k=k, labels=range(5))
        assert metrics[f"top{k}"] == pytest.approx(100 * expected)
    of_classes = sklearn.metrics.precision_recall_fscore_support(labels, guess, labels=range(5), zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1"), of_classes[:3], strict=True):
        np.testing.assert_allclose(report.columns[name][:3], 100 * values[:3])
        means = sklearn.metrics.precision_recall_fscore_support(
            labels, guess, labels=seen, average="macro", zero_division=0
        )
        assert metrics[name] == pytest.approx(100 * means[("precision", "recall", "f1").index(name)], rel=1e-5)
    assert report.columns["images"] == of_classes[3].tolist()
    assert np.isnan([report.columns[name][3] for name in ("precision", "recall", "f1")]).all()
    np.testing.assert_array_equal(report.confusion, sklearn.metrics.confusion_matrix(labels, guess, labels=range(5)))
    oracle = MulticlassCalibrationError(5, n_bins=10)
    expected = oracle(scores.softmax(1), labels)
    assert evaluated(scores, labels, bins=10)[0]["ece"] == pytest.approx(100 * float(expected), rel=1e-5)


def test_scores_that_are_not_finite_are_wrong(caplog):
    scores = torch.eye(3).repeat(2, 1)
    scores[1, 2] = float("nan")
    metrics, report = evaluated(scores, [0, 1, 2, 0, 1, 2], topk=(1, 3))
    assert metrics["top1"] == metrics["top3"] == pytest.approx(500 / 6)
    assert report.confusion.tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 2]]


def test_predictions_of_a_test_set(tmp_path):
    classes = ["cat, small", "dog"]

    class Data:
        metainfo: ClassVar = dict(classes=classes)

        def name(self, index):
            return f"{index}.png"

    scores = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    samples = [dict(probabilities=scores[i].softmax(0), label=torch.tensor(0), index=torch.tensor(i)) for i in (1, 0)]
    for suffix in ("csv", "json"):
        writer = ScoreWriter(tmp_path / "new" / f"scores.{suffix}")
        writer.dataset = Data()
        writer.process({}, samples)
        assert writer.evaluate(2) == {}
    with open(tmp_path / "new" / "scores.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "label", "predicted", "score cat, small", "score dog"]
    assert [row[:3] for row in rows[1:]] == [["0.png", "cat, small", "dog"], ["1.png", "cat, small", "cat, small"]]
    assert np.array(rows[1:])[:, 3:].astype(float) == pytest.approx(scores.softmax(1).numpy(), rel=1e-5)
    found = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert found["classes"] == classes
    assert [row["predicted"] for row in found["images"]] == ["dog", "cat, small"]
    with pytest.raises(ConfigError, match=r"predictions of this task are a file \.csv or \.json, and not"):
        ScoreWriter(tmp_path / "scores.txt")


# --- Losses


LOGITS = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
LABEL = SAMPLES["label"]
SEVERAL = torch.tensor([[1, 0, 0, 1, 0, 0], [0] * 6, [1] * 6, [0, 0, 0, 0, 0, 1]]).float()
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0, 1.5])


def test_weights_multiply_the_loss_of_an_image():
    model = make(class_weight=WEIGHT.tolist())
    one_by_one = torch.stack([F.cross_entropy(row[None], y[None]) for row, y in zip(model(X), LABEL, strict=True)])
    torch.testing.assert_close(model(X, SAMPLES, mode="loss")["loss"], (one_by_one * WEIGHT[LABEL]).mean())


def test_balanced_weights_are_those_of_scikit_learn():
    counts = [5, 1, 10]
    labels = np.repeat(range(3), counts)
    expected = sklearn.utils.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert balanced_weights(counts, 16, binary=False).tolist() == pytest.approx(expected.tolist())
    assert balanced_weights([5, 0, 16], 16, binary=True).tolist() == pytest.approx([11 / 5, 0, 0])


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_of_no_focus_is_cross_entropy(weight, smoothing):
    near, plain = (cross_entropy(LOGITS, LABEL, smoothing, weight, gamma) for gamma in (1e-7, 0.0))
    torch.testing.assert_close(near, plain, rtol=1e-5, atol=1e-6)
    shares = F.one_hot(LABEL, 6).float() * (1 - smoothing) + smoothing / 6
    torch.testing.assert_close(cross_entropy(LOGITS, shares, 0.0, weight), plain)


def test_focal_loss():
    """Its definition, for an image at a time."""
    p = LOGITS.softmax(1)[range(4), LABEL]
    torch.testing.assert_close(cross_entropy(LOGITS, LABEL, focal_gamma=2.0), (-((1 - p) ** 2) * p.log()).mean())


def test_binary_losses_are_those_of_torchvision():
    expected = sigmoid_focal_loss(LOGITS, SEVERAL, alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(binary_cross_entropy(LOGITS, SEVERAL, focal_gamma=2.0), expected)
    expected = sigmoid_focal_loss(LOGITS, SEVERAL, alpha=-1, gamma=0, reduction="none")
    weighted = torch.where(SEVERAL == 1, WEIGHT * expected, expected).mean()
    torch.testing.assert_close(binary_cross_entropy(LOGITS, SEVERAL, WEIGHT), weighted)


def test_classes_as_questions_of_yes_and_no():
    model = make(binary=True, label_smoothing=0.1)
    expected = BinaryCrossEntropy(smoothing=0.1)(model(X), LABEL)
    torch.testing.assert_close(model(X, SAMPLES, mode="loss")["loss"], expected)
    rows = model(X, SAMPLES, mode="predict")
    torch.testing.assert_close(torch.stack([row["probabilities"] for row in rows]), model(X).sigmoid())


class Labelled:
    """Images of which only the labels are known."""

    metainfo: ClassVar = dict(classes=list("abcdef"))

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def get_data_info(self, index):
        return {"label": self.labels[index]}


def test_the_log_has_the_weights_and_what_has_no_image(lines):
    make(class_weight=[1, 2, 3, 4, 5, 6.5]).start(Labelled([0, 1]))
    assert lines == ["weights of the classes: a 1, b 2, c 3, d 4, e 5, f 6.5"]
    make(class_weight="balanced").start(Labelled([0, 0, 2, 3, 4, 4]))
    assert lines[1:] == [
        "the training data have no image of 2 classes, whose weight is 0: b, f",
        "weights of the classes: a 0.5, b 0, c 1, d 1, e 0.5, f 0",
    ]


def test_several_labels():
    model = make(multi_label=True, class_weight="balanced")
    with pytest.raises(ConfigError, match="need the hook ModelStartHook"):
        model(X, {"label": SEVERAL}, mode="loss")
    model.start(Labelled([row.nonzero()[:, 0].tolist() for row in SEVERAL]))
    expected = binary_cross_entropy(model(X), SEVERAL, torch.tensor([1.0, 3, 3, 1, 3, 1]))
    torch.testing.assert_close(model(X, {"label": SEVERAL}, mode="loss")["loss"], expected)
    with pytest.raises(ConfigError, match=r"have one class each: set model\.multi_label=False"):
        model(X, SAMPLES, mode="loss")
    with pytest.raises(ConfigError, match=r"have several classes each: set model\.multi_label=True"):
        make()(X, {"label": SEVERAL}, mode="loss")


@pytest.mark.parametrize("binary", [False, True])
def test_one_class_is_no_choice(binary):
    network = {**NETWORK, "num_classes": 1}
    with pytest.raises(ConfigError, match=r"nothing can be learnt .*num_classes=1: .* model\.multi_label=True$"):
        ImageClassifier(network, binary=binary)
    loss = ImageClassifier(network, multi_label=True)(X, {"label": torch.tensor([[0.0], [1], [1], [0]])}, mode="loss")
    assert loss["loss"] > 0.1


def test_a_classifier_pools():
    with pytest.raises(ConfigError, match=r"global_pool='' gives logits for every token, .* choose 'avg'"):
        ImageClassifier({**NETWORK, "global_pool": ""})


@pytest.mark.parametrize(
    "options",
    [
        dict(class_weight=[1, 2]),
        dict(class_weight="even"),
        dict(class_weight=[-1] * 6),
        dict(class_weight=[np.inf] * 6),
    ],
)
def test_wrong_weights(options):
    with pytest.raises(
        ConfigError, match="is 'balanced' or one finite number from 0 on for each of the 6 classes, not"
    ):
        make(**options)


# --- A teacher


def taught(tmp_path, file="teacher.pth", network=NETWORK, **options):
    teacher = ImageClassifier(NETWORK).eval()
    torch.save({"state_dict": teacher.state_dict()}, tmp_path / "teacher.pth")
    weights = None if file is None else str(tmp_path / file)
    model = make(teacher=network, teacher_weights=weights, teacher_share=0.25, **options)
    model.start(Labelled([0]))
    return model, teacher


def test_a_teacher_is_learnt_from(tmp_path):
    model, teacher = taught(tmp_path, temperature=3.0)
    found = model.train()(X, SAMPLES, mode="loss")
    model.eval()
    student, answers = model(X) / 3, teacher(X) / 3
    pairs = zip(answers.softmax(1).tolist(), student.softmax(1).tolist(), strict=True)
    expected = sum(scipy.stats.entropy(p, q) for p, q in pairs) / 4
    assert found["loss_teacher"].item() == pytest.approx(0.25 * 9 * expected, rel=1e-4)
    torch.testing.assert_close(found["loss_labels"], 0.75 * F.cross_entropy(model(X), LABEL))
    sum(found.values()).backward()
    assert all(parameter.grad is None for parameter in model.teacher.network.parameters())
    assert model.state_dict().keys() == make().state_dict().keys()
    assert copy.deepcopy(model).teacher is model.teacher


def test_a_teacher_of_yes_and_no(tmp_path):
    model, teacher = taught(tmp_path, multi_label=True)
    found = model(X, {"label": SEVERAL}, mode="loss")["loss_teacher"]
    p, q = teacher(X).sigmoid(), model(X).sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(found, 0.25 * expected, rtol=1e-4, atol=1e-6)


def test_wrong_teachers(tmp_path):
    with pytest.raises(ConfigError, match=r"the teacher has no weights: set model\.teacher_weights=FILE"):
        taught(tmp_path, None)
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        taught(tmp_path, "none.pth")
    with pytest.raises(ConfigError, match="the teacher has 3 classes and the model 6"):
        taught(tmp_path, network={**NETWORK, "num_classes": 3})
    with pytest.raises(CheckpointError, match="the teacher"):
        taught(tmp_path, network={**NETWORK, "in_chans": 3})


def fixed(size, channels=3):
    options = dict(img_size=size, embed_dim=16, depth=1, num_heads=1)
    return dict(type="ssm_train.timm", name="vit_tiny_patch16_224", num_classes=6, in_chans=channels, options=options)


@pytest.mark.parametrize("mode", ["loss", "predict", "tensor"])
def test_images_that_a_network_does_not_take(mode):
    model, images = ImageClassifier(fixed(64)).eval(), torch.zeros(4, 3, 64, 64)
    model(images, SAMPLES, mode=mode)
    words = (
        "takes images of 64 × 64 alone and the images have 32 × 32: set transform.size .*, or model.backbone.options"
    )
    with pytest.raises(ConfigError, match=rf"^model.backbone {words}.img_size=32$"):
        model(images[..., :32, :32], SAMPLES, mode=mode)
    for network in (fixed(64), {**NETWORK, "in_chans": 3}):
        with pytest.raises(
            ConfigError, match=r"is 1 in the images and 3 in model.backbone: set model.backbone.in_chans=1$"
        ):
            ImageClassifier(network).eval()(images[:, :1], SAMPLES, mode=mode)


def test_other_errors_of_networks_stay():
    model = ImageClassifier(fixed(64)).eval()
    images = torch.zeros(4, 3, 64, 64)
    with pytest.raises(RuntimeError, match="type"):
        model(images.double(), mode="tensor")
    with pytest.raises(RuntimeError, match="type"):
        make()(X.double(), mode="tensor")


def test_images_that_a_teacher_does_not_take(tmp_path):
    for network, words in (
        (fixed(64, 1), r"model.teacher takes images of 64 × 64 alone .* or model.teacher.options.img_size=32$"),
        (
            fixed(32, 3),
            r"is 1 in the images and 3 in model.teacher: set model.teacher.in_chans=1$",
        ),
    ):
        torch.save({"state_dict": ImageClassifier(network).state_dict()}, tmp_path / "other.pth")
        model, _ = taught(tmp_path, "other.pth", network)
        with pytest.raises(ConfigError, match=words):
            model(X, SAMPLES, mode="loss")


# --- Several labels


def test_figures_of_several_labels_are_those_of_scikit_learn():
    draw = torch.Generator().manual_seed(0)
    labels = (torch.rand(50, 4, generator=draw) < torch.tensor([0.5, 0.2, 0.3, 0.0])).float()
    scores = (labels + torch.randn(50, 4, generator=draw)).sigmoid()
    metric = MultiLabelMetric(threshold=0.6)
    metric.dataset_meta = {"classes": list("abcd")}
    rows = [dict(probabilities=p, label=y) for p, y in zip(scores, labels, strict=True)]
    metric.process({}, rows[:20])
    metric.process({}, rows[20:])
    metrics, guess, seen = metric.evaluate(50), scores >= 0.6, slice(3)
    ap = sklearn.metrics.average_precision_score(labels[:, seen], scores[:, seen], average=None)
    assert metric.report.columns["ap"][:3] == pytest.approx(100 * ap, rel=1e-5)
    assert metrics["mAP"] == pytest.approx(100 * ap.mean(), rel=1e-5)
    found = sklearn.metrics.precision_recall_fscore_support(labels[:, seen], guess[:, seen], zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), found[:3], strict=True):
        assert metric.report.columns[name][:3] == pytest.approx(100 * values, rel=1e-5)
        assert metrics[name] == pytest.approx(100 * values.mean(), rel=1e-5)
        assert np.isnan(metric.report.columns[name][3])
    assert metric.report.columns["images"] == labels.sum(0).tolist()
    expected = sklearn.metrics.f1_score(labels, guess, average="micro")
    assert metrics["micro_f1"] == pytest.approx(100 * expected, rel=1e-5)
    with pytest.raises(ConfigError, match="MultiLabelMetric needs images of several classes"):
        metric.process({}, [dict(probabilities=scores[0], label=torch.tensor(1))])
    with pytest.raises(ConfigError, match="for several, take the metric MultiLabelMetric"):
        Accuracy().process({}, [dict(scores=scores[0], probabilities=scores[0], label=labels[0])])


def test_predictions_of_several_labels(tmp_path):
    class Data:
        metainfo: ClassVar = dict(classes=["a", "b", "c"])

        def name(self, index):
            return f"{index}.png"

    writer = ScoreWriter(tmp_path / "scores.csv")
    writer.dataset = Data()
    sample = dict(probabilities=torch.tensor([0.9, 0.5, 0.1]), label=torch.tensor([0.0, 1.0, 1.0]), index=0)
    writer.process({}, [sample])
    writer.evaluate(1)
    assert (tmp_path / "scores.csv").read_text().splitlines()[1] == "0.png,b;c,a;b,0.9,0.5,0.1"
