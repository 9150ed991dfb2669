"""Every task trains, validates, draws and predicts on images of six channels, in files of NumPy."""

import itertools
import json
from pathlib import Path

import blobs
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image

from ssm_core.errors import ConfigError
from ssm_train.apis import train as run
from ssm_train.apis.browse import browse
from ssm_train.apis.infer import Predictor, infer
from ssm_train.runtime.config import load_config
from ssm_train.tasks.detection import AnyDetDataPreprocessor
from ssm_train.tasks.segmentation import StackedSegDataPreProcessor

CONFIGS = Path(__file__).parents[2] / "configs" / "quadmamba"
CHANNELS = 6
NUMBER = itertools.count()  # mmengine shares loggers between runs of the same name and second
TINY = ["model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)", f"model.backbone.in_chans={CHANNELS}"]
PREPROCESSOR = [
    f"model.data_preprocessor.mean={[127.5] * CHANNELS}",
    f"model.data_preprocessor.std={[60.0] * CHANNELS}",
]
PREPROCESSOR += ["model.data_preprocessor.bgr_to_rgb=False"]
SHORT = ["visualizer.tensorboard=False", "default_hooks.curves.plot=False", "default_hooks.pictures.count=1"]
pytestmark = pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False", "ignore:For binary segmentation")


def loaders(*options):
    return [f"{split}_dataloader.{option}" for split in ("train", "val", "test") for option in options]


def bands(path):
    """Replace an image file by an array: its colours, forwards and backwards."""
    colours = np.asarray(Image.open(path).convert("RGB"))
    np.save(path.with_suffix(".npy"), np.dstack([colours, colours[..., ::-1]]))
    path.unlink()


def classification(root):
    for split, name in itertools.product(("train", "val"), "ab"):
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(2):
            np.save(folder / f"{i}.npy", np.full((40, 44, CHANNELS), 100 * (name == "b") + i, np.uint8))
    scaling = [f"transform.mean={[0.5] * CHANNELS}", f"transform.std={[0.25] * CHANNELS}", "transform.size=32"]
    dataset = [f"dataset.{option}" for option in (f"root={root}", f"channels={CHANNELS}", *scaling)]
    plain = [
        "train_dataloader.dataset.transform.auto_augment=None",
        "train_dataloader.dataset.transform.color_jitter=None",
    ]
    length = [
        "train_cfg.max_epochs=1",
        "model.backbone.num_classes=2",
        "param_scheduler=[]",
        "train_dataloader.batch_size=2",
    ]
    return "quadmamba-tiny_image-folder.py", [*loaders(*dataset), *plain, *length], "epoch_1.pth", root / "val"


def segmentation(root):
    draw = np.random.RandomState(0)
    for split in ("train", "val"):
        for name in (split, f"{split}_labels"):
            (root / name).mkdir(parents=True)
        for i in range(2):
            labels = np.zeros((64, 64), np.uint8)
            labels[10 + i : 40, 20:50] = 1
            Image.fromarray(labels).save(root / f"{split}_labels" / f"{i}.png")
            np.save(
                root / split / f"{i}.npy", draw.randint(0, 50, (64, 64, CHANNELS), np.uint8) + 150 * labels[..., None]
            )
    heads = ["model.decode_head.in_channels=[8,16,16,16]", "model.auxiliary_head.in_channels=16"]
    heads += ["model.decode_head.channels=8", "model.auxiliary_head.channels=8", "model.data_preprocessor.size=(64,64)"]
    dataset = [f"dataset.data_root={root}", "dataset.img_suffix=.npy", f"dataset.pipeline.0.channels={CHANNELS}"]
    length = ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2"]
    length += ["param_scheduler=[]", "train_dataloader.batch_size=2"]
    return (
        "upernet_quadmamba-nano_nuclei-128x128.py",
        [*loaders(*dataset), *heads, *length, *PREPROCESSOR],
        "iter_2.pth",
        root / "val",
    )


def detection(root):
    blobs.write(root, images=2, suffix=".png")
    for path in root.glob("*/*.png"):
        bands(path)
    for path in root.glob("*.json"):
        path.write_text(path.read_text().replace(".png", ".npy"))
    neck = ["model.neck.in_channels=[8,16,16,16]", "train_cfg.max_epochs=1", "param_scheduler=[]"]
    reading = loaders(f"dataset.pipeline.0.channels={CHANNELS}")
    options = [*blobs.options(root), *neck, *reading, *PREPROCESSOR]
    return "mask-rcnn_quadmamba-nano_nuclei-128x128.py", options, "epoch_1.pth", root / "val"


@pytest.mark.parametrize("task", [classification, segmentation, detection], ids=lambda task: task.__name__)
def test_six_channels_from_files_to_pictures(tmp_path, task):
    name, options, checkpoint, images = task(tmp_path / "data")
    options += [*TINY, *SHORT, *loaders("num_workers=0", "persistent_workers=False"), f"experiment_name={next(NUMBER)}"]
    cfg = load_config(CONFIGS / name, options)
    object.__setattr__(cfg, "_format_python_code", False)  # formatting would take a second
    cfg.work_dir = str(tmp_path / "run")
    scope = {"classification": "ssm_train", "segmentation": "mmseg", "detection": "mmdet"}[task.__name__]
    with DefaultScope.overwrite_default_scope(scope):
        result = run.train(cfg)
        assert len(result.curves["val"]) == 1
        assert list((tmp_path / "run").glob("*/vis_data/vis_image/prediction_0_*.png")), "validation is shown"
        for split in ("train", "val"):
            assert browse(cfg, split, tmp_path / split, count=2) != []
        found = infer(
            Predictor(cfg, tmp_path / "run" / checkpoint, "cpu", 0.0), images, tmp_path / "out", lambda text: None
        )
    assert found.unreadable == 0
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(predictions) == len(list(images.rglob("*.npy")))
    assert len(list((tmp_path / "out").rglob("*.png"))) >= len(predictions)


@pytest.mark.parametrize("ours", [AnyDetDataPreprocessor, StackedSegDataPreProcessor])
def test_preprocessors_take_any_number_of_means(ours):
    three = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "bgr_to_rgb": True}
    theirs = ours.__mro__[2]  # mmdet's or mmseg's, behind the base class for any number of channels
    assert theirs.__module__.startswith("mm")
    data = {"inputs": [torch.rand(3, 8, 8)], "data_samples": None}
    expected, found = (kind(**three)(dict(data), False)["inputs"] for kind in (theirs, ours))
    assert torch.equal(torch.stack(list(expected)), torch.stack(list(found)))
    many = ours(mean=[float(n) for n in range(6)], std=[2.0] * 6)
    found = many({"inputs": [torch.ones(6, 8, 8)], "data_samples": None}, False)["inputs"]
    assert torch.equal(torch.stack(list(found))[0, :, 0, 0], (1 - torch.arange(6)) / 2)
    with pytest.raises(ConfigError, match="2 means and 1 standard deviations"):
        ours(mean=[0.0, 1.0], std=[1.0])
