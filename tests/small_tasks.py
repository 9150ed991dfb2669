"""Tiny data and tiny networks of the three vision tasks, for images of three channels or of others."""

import itertools
from pathlib import Path
from typing import NamedTuple

import blobs
import numpy as np
from command_line import CONFIGS
from PIL import Image


class SmallTask(NamedTuple):
    """A config that trains in seconds.

    Attributes:
        config: the file.
        options: changes of the config.
        checkpoint: name of the file that its training ends with.
        images: folder of the validation images.
    """

    config: Path
    options: list[str]
    checkpoint: str
    images: Path


def loaders(*options):
    return [f"{split}_dataloader.{option}" for split in ("train", "val", "test") for option in options]


def small(name, options, checkpoint, images, channels):
    tiny = ["depths=(1,1,1,1)", "dims=(8,16,16,16)", f"in_chans={channels}"]
    more = [f"model.backbone.{option}" for option in tiny] + loaders("num_workers=0", "persistent_workers=False")
    return SmallTask(CONFIGS / "quadmamba" / name, [*options, *more], checkpoint, images)


def save(path, colours, channels):
    """Save an image of three channels as a PNG, and one of another number as an array of its colours, repeated."""
    if channels == 3:
        Image.fromarray(colours).save(path.with_suffix(".png"))
    else:
        np.save(path.with_suffix(".npy"), np.dstack([colours, colours[..., ::-1]] * channels)[..., :channels])


def preprocessor(channels):
    """Options for the preprocessors of detectors and segmentors."""
    if channels == 3:
        return []
    means = {"mean": [127.5] * channels, "std": [60.0] * channels, "bgr_to_rgb": False}
    return [f"model.data_preprocessor.{key}={value}" for key, value in means.items()]


def classification(root, channels=3):
    """Two classes, dark and light."""
    draw = np.random.RandomState(0)
    for split, name in itertools.product(("train", "val"), "ab"):
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(2):
            light = draw.randint(0, 90, (40, 44 + 10 * i, 3)) + 150 * (name == "b")
            save(folder / str(i), light.astype(np.uint8), channels)
    scaling = [f"transform.mean={[0.5] * channels}", f"transform.std={[0.25] * channels}", "transform.size=32"]
    dataset = [f"dataset.{option}" for option in (f"root={root}", f"channels={channels}", *scaling)]
    plain = [f"train_dataloader.dataset.transform.{name}=None" for name in ("auto_augment", "color_jitter")]
    length = ["train_cfg.max_epochs=1", "param_scheduler=[]", "train_dataloader.batch_size=2"]
    options = [*loaders(*dataset), *plain, *length, "model.backbone.num_classes=2"]
    return small("quadmamba-tiny_image-folder.py", options, "epoch_1.pth", root / "val", channels)


def segmentation(root, channels=3):
    """A light rectangle on dark ground."""
    draw = np.random.RandomState(0)
    for split in ("train", "val"):
        for name in (split, f"{split}_labels"):
            (root / name).mkdir(parents=True)
        for i in range(2):
            labels = np.zeros((64, 64), np.uint8)
            labels[10 + i : 40, 20:50] = 1
            Image.fromarray(labels).save(root / f"{split}_labels" / f"{i}.png")
            colours = draw.randint(0, 50, (64, 64, 3), np.uint8) + 150 * labels[..., None]
            save(root / split / str(i), colours, channels)
    heads = ["model.decode_head.in_channels=[8,16,16,16]", "model.auxiliary_head.in_channels=16"]
    heads += ["model.decode_head.channels=8", "model.auxiliary_head.channels=8", "model.data_preprocessor.size=(64,64)"]
    suffix = ".png" if channels == 3 else ".npy"
    dataset = [f"data_root={root}", f"img_suffix={suffix}", f"pipeline.0.channels={channels}"]
    length = ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2"]
    length += ["param_scheduler=[]", "train_dataloader.batch_size=2"]
    options = [*loaders(*(f"dataset.{option}" for option in dataset)), *heads, *length, *preprocessor(channels)]
    return small("upernet_quadmamba-nano_nuclei-128x128.py", options, "iter_2.pth", root / "val", channels)


def detection(root, channels=3):
    """Light rectangles and discs."""
    blobs.write(root, images=2, suffix=".png")
    for path in root.glob("*/*.png") if channels != 3 else ():
        save(path, np.asarray(Image.open(path).convert("RGB")), channels)
        path.unlink()
    for path in root.glob("*.json") if channels != 3 else ():
        path.write_text(path.read_text().replace(".png", ".npy"))
    length = ["model.neck.in_channels=[8,16,16,16]", "train_cfg.max_epochs=1", "param_scheduler=[]"]
    reading = loaders(f"dataset.pipeline.0.channels={channels}")
    options = [*blobs.options(root), *length, *reading, *preprocessor(channels)]
    return small("mask-rcnn_quadmamba-nano_nuclei-128x128.py", options, "epoch_1.pth", root / "val", channels)


TASKS = {"classification": classification, "segmentation": segmentation, "detection": detection}
