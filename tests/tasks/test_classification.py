"""Tests of the classifier and of its accuracy."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import default_collate

from ssm_core.errors import ConfigError
from ssm_train.data.datasets import collate_images, problems_of
from ssm_train.tasks.classification.classifier import ImageClassifier
from ssm_train.tasks.classification.metrics import Accuracy, rank_of_label

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


def test_accuracy_leaves_unreadable_images_out():
    metric = Accuracy(topk=(1, 2))
    scores = torch.eye(3)[[0, 1, 2, 0]] + torch.tensor([0.0, 0.1, 0.2])
    rows = [dict(scores=s, label=y, unreadable="") for s, y in zip(scores, (0, 1, 0, 2), strict=True)]
    metric.process({}, rows[:3])
    metric.process({}, [*rows[3:], dict(scores=torch.zeros(3), label=1, unreadable="broken.png")])
    assert metric.evaluate(size=5) == {"top1": 50.0, "top2": 75.0}
