"""Tests that the configs of docs/data.md for one's own data train as they are printed, on data that lie as it says."""

import json
import re
from pathlib import Path

import blobs
import numpy as np
import pytest
from command_line import ROOT, run
from PIL import Image

from ssm_train.runtime.config import load_config

pytestmark = [
    pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False"),
    pytest.mark.filterwarnings("ignore:.*faster_coco_eval"),
]
LOADERS = [
    f"{split}_dataloader.{option}"
    for split in ("train", "val", "test")
    for option in ("num_workers=0", "persistent_workers=False")
]
# What makes the networks small and the trainings short, and nothing of data or classes.
SMALL = [*LOADERS, "model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)", "param_scheduler=[]"]
DETECTION = ["train_cfg.max_epochs=1", "model.neck.in_channels=[8,16,16,16]"]
DETECTION += [
    f"{split}_dataloader.dataset.pipeline.{place}.scale=(64,64)" for split, place in (("train", 2), ("val", 1))
]
SEGMENTATION = [
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "default_hooks.checkpoint.interval=2",
    "model.decode_head.in_channels=[8,16,16,16]",
    "model.auxiliary_head.in_channels=16",
    *(f"model.{head}.channels=16" for head in ("decode_head", "auxiliary_head")),
    "train_dataloader.dataset.pipeline.2.scale=(128,64)",
    "train_dataloader.dataset.pipeline.3.crop_size=(64,64)",
    "model.data_preprocessor.size=(64,64)",
    "val_dataloader.dataset.pipeline.1.scale=(128,64)",
]


def write_boxes(root):
    """Objects of two classes, without their masks."""
    blobs.write(root, 2)
    for path in (root / "train.json", root / "val.json"):
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        path.write_text(json.dumps(content))


def write_segments(root):
    """Images and label maps of three classes."""
    draw = np.random.RandomState(0)
    for split in ("train", "val"):
        for folder in (root / split, root / f"{split}_labels"):
            folder.mkdir(parents=True)
        for number in range(2):
            labels = draw.randint(0, 3, (8, 8)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
            Image.fromarray(np.dstack([80 * labels] * 3)).save(root / split / f"{number}.jpg")
            Image.fromarray(labels).save(root / f"{split}_labels" / f"{number}.png")


CASES = {
    "my-boxes.py": (write_boxes, "data/boxes", DETECTION, "coco/bbox_mAP"),
    "my-segments.py": (write_segments, "data/segments", SEGMENTATION, "mIoU"),
}


@pytest.mark.parametrize("name", CASES)
def test_config(name, tmp_path, monkeypatch, capsys):
    write, root, short, score = CASES[name]
    page = (ROOT / "docs" / "data.md").read_text()
    (text,) = re.findall(rf'^```python title="{name}"\n(.*?)^```$', page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    write(tmp_path / root)
    assert load_config(name).load_from is None
    assert run("train", name, "--cfg-options", *SMALL, *short) == 0
    assert score in capsys.readouterr().out
