"""Trainings of classifiers with unequal classes, with several labels, and with a teacher."""

import csv
import itertools

import pytest
import runs
from mmengine.config import ConfigDict

from ssm_train.apis import train as run
from ssm_train.data.datasets import Digits

NUMBER = itertools.count()  # mmengine shares loggers between runs of the same name and second
NETWORK = ("resnet/resnet18_digits.py", "model.backbone.name=test_efficientnet_gn")


def configure(folder, *options):
    name, *network = NETWORK
    cfg = runs.configure(name, folder, *network, *options, f"experiment_name=classes{next(NUMBER)}")
    cfg.custom_hooks = []
    return cfg


def test_a_resumed_run_draws_and_weighs_as_the_whole_one(tmp_path):
    options = ["model.class_weight=balanced", "model.focal_gamma=2", "train_dataloader.dataset.transform.hflip=0.5"]
    saved = ["default_hooks.checkpoint.by_epoch=False", "default_hooks.checkpoint.interval=8"]
    ends = {}
    for name, resume in (("whole", False), ("rest", tmp_path / "whole" / "iter_8.pth")):
        cfg = configure(tmp_path / name, *options, *saved)
        cfg.train_dataloader.sampler = ConfigDict(type="WeightedSampler")
        ends[name] = run.train(cfg, resume)
        assert "weights of the classes: 0 " in next((tmp_path / name).rglob("*.log")).read_text()
    assert [p["loss"] for p in ends["rest"].curves["train"]] == [p["loss"] for p in ends["whole"].curves["train"]][8:]
    states = [runs.last_state(tmp_path / name)["state_dict"] for name in ends]
    assert runs.differing(*states) == []


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Write digits with the labels "even" and "small"."""
    folder = tmp_path_factory.mktemp("digits")
    for split, count in (("train", 48), ("test", 16)):
        data = Digits(transform=lambda image: image, split=split, size=32)
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "labels"])
            for index in range(count):
                digit = data.labels[index]
                data.load(index).save(folder / f"{split}{index}.png")
                rows.writerow([f"{split}{index}.png", ";".join(["even"] * (digit % 2 == 0) + ["small"] * (digit < 5))])
    return folder


def test_images_of_several_classes(lists, tmp_path):
    options = ["model.multi_label=True", "model.class_weight=balanced", "model.backbone.num_classes=2"]
    options += ["default_hooks.checkpoint.save_best=mAP"]
    cfg = configure(tmp_path, *options)
    for split, loader in (("train", cfg.train_dataloader), ("test", cfg.val_dataloader), ("test", cfg.test_dataloader)):
        transform = loader.dataset.transform
        loader.dataset = ConfigDict(type="ImageList", file=str(lists / f"{split}.csv"), mode="L", transform=transform)
        loader.num_batch_per_epoch = None
    cfg.val_evaluator = cfg.test_evaluator = ConfigDict(type="MultiLabelMetric")
    result = run.train(cfg)
    assert result.curves["val"][-1].keys() >= {"mAP", "f1", "micro_f1", "precision", "recall"}
    assert list(tmp_path.glob("best_mAP_*.pth"))
    found = run.test(cfg, tmp_path / "epoch_2.pth", tmp_path / "scores.csv")
    assert found["mAP"] == result.last("mAP")
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    with (lists / "test.csv").open() as file:
        assert [row["label"] for row in rows] == [row["labels"] for row in csv.DictReader(file)]
    table = list(csv.DictReader((tmp_path / "evaluation" / "test_classes.csv").read_text().splitlines()))
    assert [row["class"] for row in table] == ["even", "small"]


def test_wrapped_datasets(tmp_path):
    cfg = configure(tmp_path, "train_cfg.max_epochs=1", "train_dataloader.num_batch_per_epoch=1")
    inner = cfg.train_dataloader.dataset
    joined = ConfigDict(type="ConcatDataset", datasets=[inner, inner])
    cfg.train_dataloader.dataset = ConfigDict(type="RepeatDataset", times=2, dataset=joined)
    cfg.model.class_weight = "balanced"
    assert len(run.train(cfg).curves["train"]) == 1
