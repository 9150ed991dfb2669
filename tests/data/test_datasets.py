"""Tests of the image datasets and of faults in their files."""

import gzip

import numpy as np
import pytest
import runs
import torch
from PIL import Image
from stand_ins import write_idx

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.datasets import Digits, FashionMNIST, ImageFolder, ImageNet
from ssm_train.data.datasets.digits import split_indices
from ssm_train.data.datasets.fashion_mnist import FILES
from ssm_train.data.datasets.idx import read_idx


def plain(image):
    return torch.from_numpy(np.array(image))


@pytest.fixture
def fashion(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    write_idx(tmp_path / FILES["test"][0], images)
    write_idx(tmp_path / FILES["test"][1], np.array([9, 0, 3, 3, 1], np.uint8))
    return tmp_path, images


def test_fashion_mnist(fashion):
    root, images = fashion
    data = FashionMNIST(plain, root, split="test")
    assert len(data) == 5
    sample = data[2]
    assert torch.equal(sample["inputs"], torch.from_numpy(images[2]))
    assert sample["data_samples"] == {"label": 3, "index": 2, "unreadable": ""}
    assert data.metainfo["classes"][9] == "Ankle boot"
    assert [sample["data_samples"]["label"] for sample in data] == [9, 0, 3, 3, 1], "a loop over it ends"
    with pytest.raises(IndexError, match="there is no image 5 among 5"):
        data[5]
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz does not exist; make it with `tree-ssm prep"):
        FashionMNIST(plain, root)


@pytest.mark.parametrize("fault", ["truncated gzip", "no gzip", "other magic", "short", "empty"])
def test_corrupt_idx(fashion, fault):
    path = fashion[0] / FILES["test"][0]
    content = path.read_bytes()
    raw = gzip.decompress(content)
    path.write_bytes(
        {
            "truncated gzip": content[:-200],
            "no gzip": raw,
            "other magic": gzip.compress(b"\0\0\x0d\3" + raw[4:]),
            "short": gzip.compress(raw[:-1]),
            "empty": b"",
        }[fault]
    )
    with pytest.raises(DataError, match=str(path)):
        FashionMNIST(plain, fashion[0], split="test")


def test_labels_of_other_images(fashion):
    write_idx(fashion[0] / FILES["test"][1], np.array([9, 0, 3, 3], np.uint8))
    with pytest.raises(DataError, match="4 labels up to 9 for 5 images"):
        FashionMNIST(plain, fashion[0], split="test")
    assert read_idx(fashion[0] / FILES["test"][1], dimensions=1).tolist() == [9, 0, 3, 3]


def test_digits():
    train, test = Digits(plain), Digits(plain, split="test")
    assert (len(train), len(test)) == (1438, 359)
    assert train[0]["inputs"].shape == (32, 32)
    assert not set(train.indices) & set(test.indices)
    counts = np.bincount(test.labels) / (np.bincount(train.labels) + np.bincount(test.labels))
    assert np.allclose(counts, 0.2, atol=0.005)
    # Every published figure depends on the split, so it must never change.
    assert test.indices[:8].tolist() == split_indices(np.array(_targets()))["test"][:8].tolist() == FIRST_HELD_OUT


FIRST_HELD_OUT = [3, 7, 13, 19, 36, 38, 43, 48]


def _targets():
    from sklearn.datasets import load_digits

    return load_digits().target


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["ant", "ant", "bee", "bee"]):
        path = tmp_path / "train" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 6), (number * 50, 0, 0)).save(path)
    (tmp_path / "train" / "ant" / "notes.txt").touch()
    return tmp_path


def test_image_folder(folder):
    data = ImageFolder(plain, folder)
    assert data.metainfo == {"classes": ["ant", "bee"]}
    assert data.labels == [0, 0, 1, 1]
    assert data[3]["inputs"][0, 0].tolist() == [150, 0, 0]
    assert ImageFolder(plain, folder, mode="L")[3]["inputs"].shape == (6, 4)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_unreadable_image(folder, content):
    path = folder / "train" / "ant" / "1.png"
    path.write_bytes(path.read_bytes()[:40] if content is None else content)
    sample = ImageFolder(plain, folder)[1]
    # The next readable image takes its place, with its own label.
    assert sample["inputs"][0, 0].tolist() == [100, 0, 0]
    assert sample["data_samples"]["label"] == 1
    assert sample["data_samples"]["unreadable"].startswith(str(path))
    with pytest.raises(DataError, match=f"cannot read the image {path}"):
        ImageFolder(plain, folder, unreadable="raise")[1]


def test_no_readable_image(folder):
    for path in folder.glob("train/*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="not one of 4 images can be read,"):
        ImageFolder(plain, folder)[0]


def test_missing_folders(folder):
    with pytest.raises(DataError, match=r"there is no dataset folder .*val"):
        ImageFolder(plain, folder, split="val")
    (folder / "val").mkdir()
    with pytest.raises(DataError, match="has no class folders"):
        ImageFolder(plain, folder, split="val")
    (folder / "val" / "ant").mkdir()
    with pytest.raises(DataError, match="1 class folders and no images"):
        ImageFolder(plain, folder, split="val")
    with pytest.raises(DataError, match=r"2 of ImageNet's 1000 classes; .*tree-ssm prepare-data imagenet"):
        ImageNet(plain, folder)
    with pytest.raises(ConfigError, match="'skip' or 'raise'"):
        ImageFolder(plain, folder, unreadable="ignore")


def test_training_names_and_counts_unreadable_images(tmp_path):
    for split in ("train", "val"):
        for number in range(8):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (32, 32), number * 30).save(path)
    bad = [tmp_path / "train" / "a" / "2.png", tmp_path / "val" / "b" / "3.png"]
    for path in bad:
        path.write_bytes(b"broken")
    options = [
        f"{loader}.dataset={{'type': 'ImageFolder', 'root': '{tmp_path}', 'split': '{split}', 'mode': 'L', "
        f"'transform': {{'type': 'TestTransform', 'size': 32, 'mean': (0.5,), 'std': (0.5,)}}, "
        "'_delete_': True}"
        for loader, split in (("train_dataloader", "train"), ("val_dataloader", "val"))
    ]
    options += ["train_dataloader.num_batch_per_epoch=None", "val_dataloader.num_batch_per_epoch=None"]
    name, *model = runs.RESNET
    runs.call(runs.train, tmp_path / "log", name, tmp_path / "run", *model, "model.backbone.num_classes=2", *options)
    log = (tmp_path / "log").read_text()
    assert log.count(f"cannot use the image {bad[0]}") == 1
    assert "1 training images could not be used" in log
    assert "1 of 8 images could not be used and are not in the metrics" in log
