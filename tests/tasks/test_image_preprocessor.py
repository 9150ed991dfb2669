"""Tests of trainings whose images are augmented by the batch, on the device of the model."""

import itertools

import pytest
import runs
import torch
from mmengine.config import ConfigDict
from small_tasks import classification
from torch._dynamo.testing import CompileCounter

from ssm_core.errors import ConfigError
from ssm_train.apis import train as run
from ssm_train.apis.browse import browse
from ssm_train.data.collate import collate_images
from ssm_train.data.datasets import Digits
from ssm_train.data.transforms import TrainTransform
from ssm_train.runtime.building import compile_parts
from ssm_train.runtime.config import load_config
from ssm_train.tasks.classification.classifier import ImageClassifier
from ssm_train.tasks.classification.preprocessor import ImagePreprocessor

NUMBER = itertools.count()  # mmengine shares loggers between runs of the same name and second
NETWORK = ("resnet/resnet18_digits.py", "model.backbone.name=test_efficientnet_gn")
BACKBONE = dict(type="ssm_train.timm", name="test_efficientnet_gn", num_classes=10, in_chans=1)
ON_DEVICE = "train_dataloader.dataset.transform.on_device=True"


def train(folder, *options, **settings):
    name, *network = NETWORK
    return runs.train(name, folder, *network, *options, f"experiment_name=device{next(NUMBER)}", **settings)


def batch_of(count=4):
    data = Digits(TrainTransform(32, mean=(0.3,), std=(0.4,), random_erasing=1.0, on_device=True))
    return collate_images([data[index] for index in range(count)])


def test_a_batch_is_finished_once():
    preprocessor, batch = ImagePreprocessor(), batch_of()
    before = batch["inputs"].clone()
    finished = preprocessor(batch, training=True)
    assert set(finished) == {"inputs", "data_samples"}
    assert finished["inputs"].dtype == torch.float32
    assert finished["inputs"].is_contiguous()
    assert torch.equal(preprocessor(finished)["inputs"], finished["inputs"])
    assert torch.equal(batch["inputs"], before)
    assert "drawn" in batch


def test_it_is_compiled_with_the_backbone():
    model, counter, batch = ImageClassifier(BACKBONE), CompileCounter(), batch_of()
    expected = model.data_preprocessor(batch)["inputs"]
    compile_parts(model, {"backend": counter, "dynamic": False})
    assert torch.equal(model.data_preprocessor(batch)["inputs"], expected)
    assert counter.frame_count == 2  # noise and scaling


def test_a_preprocessor_that_only_moves_images_does_as_well():
    losses, batch = [], batch_of()
    for settings in (None, dict(type="BaseDataPreprocessor")):
        torch.manual_seed(0)
        model = ImageClassifier(BACKBONE, data_preprocessor=settings)
        losses.append(model(**model.data_preprocessor(batch), mode="loss")["loss"])
    assert torch.equal(*losses)


def test_a_preprocessor_that_changes_unfinished_images_is_refused():
    settings = dict(type="ImgDataPreprocessor", mean=[120.0], std=[60.0])
    model = ImageClassifier(BACKBONE, data_preprocessor=settings)
    with pytest.raises(ConfigError, match="ImgDataPreprocessor changes images that are still to be augmented"):
        model(**model.data_preprocessor(batch_of()), mode="loss")


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path):
    options = [ON_DEVICE, *runs.EVERYTHING_RANDOM, "default_hooks.checkpoint.by_epoch=False"]
    options += ["default_hooks.checkpoint.interval=8"]
    whole = train(tmp_path / "whole", *options)
    workers = ["train_dataloader.num_workers=1", "train_dataloader.persistent_workers=True"]
    rest = train(tmp_path / "rest", *options, *workers, resume=tmp_path / "whole" / "iter_8.pth")
    assert [p["loss"] for p in rest.curves["train"]] == [p["loss"] for p in whole.curves["train"]][8:]
    states = [runs.last_state(tmp_path / name)["state_dict"] for name in ("whole", "rest")]
    assert runs.differing(*states) == []


def test_training_is_that_of_the_loading_processes(tmp_path):
    curves = [train(tmp_path / f"{len(options)}", *options).curves["train"] for options in ([], [ON_DEVICE])]
    for host, device in zip(*curves, strict=True):
        assert device["loss"] == host["loss"]


def test_the_recipe_for_folders_augments_on_the_device(tmp_path):
    task = classification(tmp_path / "images")
    plain = ("auto_augment=None", "color_jitter=None")
    cfg = load_config(task.config, [*runs.SMALL[4:], *(o for o in task.options if not o.endswith(plain))])
    assert cfg.train_dataloader.dataset.transform.auto_augment == "rand-m9-mstd0.5-inc1"
    assert cfg.train_dataloader.dataset.transform.on_device
    cfg.work_dir, cfg.custom_hooks = str(tmp_path / "run"), []
    pictures = browse(cfg, "train", tmp_path / "seen", count=3)
    assert [path.name for path in pictures] == ["0000_class0.png", "0001_class0.png", "0002_class1.png"]
    assert len(run.train(cfg).curves["train"]) == 2


def test_joined_datasets_are_unfinished_too(tmp_path):
    name, *network = NETWORK
    cfg = runs.configure(
        name, tmp_path, *network, ON_DEVICE, "train_cfg.max_epochs=1", f"experiment_name=d{next(NUMBER)}"
    )
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = ConfigDict(type="ConcatDataset", datasets=[inner, inner])
    cfg.custom_hooks = []
    assert len(run.train(cfg).curves["train"]) == 6
