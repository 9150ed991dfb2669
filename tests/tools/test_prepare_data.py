"""Tests of tools/prepare_data.py on small stand-ins for the data sets."""

import json
import shutil

import numpy as np
import pytest
from command_line import error_of, run
from PIL import Image
from stand_ins import fashion_mnist, write_idx

from ssm_train.data.datasets.fashion_mnist import FILES

WNIDS = [f"n{number:08d}" for number in range(1000)]


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    """Write four files of Fashion-MNIST's shape. The images are zero, and the ten labels take turns."""
    folder = tmp_path_factory.mktemp("download")
    for split, count in (("train", 60_000), ("test", 10_000)):
        write_idx(folder / FILES[split][0], np.zeros((count, 28, 28), np.uint8))
        write_idx(folder / FILES[split][1], (np.arange(count) % 10).astype(np.uint8))
    return folder


def test_fashion_mnist(fashion, tmp_path, capsys):
    assert run("prepare_data", "fashion-mnist", "--root", tmp_path, "--from", fashion) == 0
    assert "60000 train images and 10000 test images, verified" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "fashion-mnist").iterdir()) == sorted(
        n for f in FILES.values() for n in f
    )
    assert run("prepare_data", "fashion-mnist", "--root", tmp_path) == 0


def test_damaged_fashion_mnist(fashion, tmp_path, capsys):
    shutil.copytree(fashion, tmp_path / "x")
    path = tmp_path / "x" / FILES["test"][1]
    path.write_bytes(path.read_bytes()[:100])
    line = error_of(capsys, "prepare_data", "fashion-mnist", "--root", tmp_path, "--from", tmp_path / "x")
    assert f"{path} is damaged" in line
    write_idx(path, np.zeros(10_000, np.uint8))
    line = error_of(capsys, "prepare_data", "fashion-mnist", "--root", tmp_path, "--from", tmp_path / "x")
    assert "another number of T-shirt images" in line
    assert not (tmp_path / "fashion-mnist").exists()


def test_no_fashion_mnist(tmp_path, capsys):
    line = error_of(capsys, "prepare_data", "fashion-mnist", "--root", tmp_path, "--from", tmp_path / "nowhere")
    assert f"no Fashion-MNIST in {tmp_path / 'nowhere'}" in line
    assert "--from" in line


def test_digits(capsys):
    assert run("prepare_data", "digits") == 0
    assert "nothing to prepare" in capsys.readouterr().out


@pytest.fixture
def imagenet(tmp_path):
    """Write an ImageNet download with a thousand classes of one image. All validation images are in one folder."""
    source = tmp_path / "download"
    (source / "val").mkdir(parents=True)
    for number, wnid in enumerate(WNIDS):
        (source / "train" / wnid).mkdir(parents=True)
        (source / "train" / wnid / f"{wnid}_1.JPEG").touch()
        (source / "val" / f"ILSVRC2012_val_{number + 1:08d}.JPEG").touch()
    return source


def test_imagenet(imagenet, tmp_path, capsys):
    arguments = ("imagenet", "--root", tmp_path, "--from", imagenet)
    assert "its classes are unknown: put one of LOC_val_solution.csv" in error_of(capsys, "prepare_data", *arguments)
    lines = [f"ILSVRC2012_val_{n + 1:08d},{wnid} 1 2 3 4" for n, wnid in enumerate(WNIDS)]
    (imagenet / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))
    assert run("prepare_data", *arguments) == 0
    printed = capsys.readouterr().out
    assert "1000 images in 1000 classes, 1280167 missing" in printed
    assert "1000 images in 1000 classes, 49000 missing" in printed
    target = tmp_path / "imagenet"
    assert (target / "val" / WNIDS[7] / "ILSVRC2012_val_00000008.JPEG").exists()
    assert (target / "train" / WNIDS[7] / f"{WNIDS[7]}_1.JPEG").exists()
    # Prepared data is only checked.
    (target / "train" / WNIDS[3]).unlink()
    assert "999 class folders" in error_of(capsys, "prepare_data", "imagenet", "--root", tmp_path)


def test_imagenet_sorted_in_place(imagenet, tmp_path):
    imagenet.rename(tmp_path / "imagenet")
    (tmp_path / "imagenet" / "synset_labels.txt").write_text("\n".join(reversed(WNIDS)))
    assert run("prepare_data", "imagenet", "--root", tmp_path) == 0
    assert (tmp_path / "imagenet" / "val" / WNIDS[-1] / "ILSVRC2012_val_00000001.JPEG").is_file()


def test_no_imagenet(tmp_path, capsys):
    line = error_of(capsys, "prepare_data", "imagenet", "--root", tmp_path)
    assert f"there is no {tmp_path / 'imagenet'}" in line
    assert "image-net.org" in line


def test_composite(tmp_path, capsys):
    source = fashion_mnist(tmp_path / "download")
    arguments = ["--root", tmp_path, "--from", source, "--size", 64, "--train-count", 3, "--val-count", 2, "--seed", 1]
    assert run("prepare_data", "composite", *arguments) == 0
    assert "val: 2 composited images" in capsys.readouterr().out
    assert len(list((tmp_path / "composite" / "train_labels").glob("*.png"))) == 3
    assert "no Fashion-MNIST in" in error_of(
        capsys, "prepare_data", "composite", "--root", tmp_path, "--from", tmp_path
    )


def test_nuclei(nuclei_root, tmp_path, capsys):
    arguments = ("nuclei", "--root", tmp_path, "--from", nuclei_root / "nuclei", "--tile", 64)
    assert run("prepare_data", *arguments) == 0
    assert "train: 165 tiles of 64 × 64" in capsys.readouterr().out


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """Write a download with three images in each split."""
    from ssm_train.data.prepare import coco as module

    monkeypatch.setattr(module, "SIZES", {"train": (3, 1), "val": (3, 2)})
    source = tmp_path / "download"
    (source / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (source / f"{split}2017").mkdir()
        images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(3)]
        for image in images:
            (source / f"{split}2017" / image["file_name"]).write_bytes(b"x")
        content = {"images": images, "annotations": [{}], "categories": [{}] * 80}
        (source / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return source


def test_coco(coco, tmp_path, capsys):
    arguments = ("coco", "--root", tmp_path)
    assert "has no train2017, val2017, annotations: download" in error_of(capsys, "prepare_data", *arguments)
    assert run("prepare_data", *arguments, "--from", coco) == 0
    printed = capsys.readouterr().out
    assert "train2017: 3 images with 1 instances, complete" in printed
    assert "val2017: 3 images with 1 instances, COCO 2017 has 3 with 2" in printed
    (coco / "val2017" / "000000000001.jpg").write_bytes(b"")
    assert "has 1 of 3 images missing or empty: 000000000001.jpg" in error_of(capsys, "prepare_data", *arguments)
    path = coco / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace("{}, ", "", 1))
    assert "has 79 categories" in error_of(capsys, "prepare_data", *arguments)
    path.write_text(path.read_text()[:50])
    assert "instances_train2017.json is damaged" in error_of(capsys, "prepare_data", *arguments)
    path.unlink()
    assert "it is in annotations_trainval2017.zip" in error_of(capsys, "prepare_data", *arguments)


@pytest.fixture
def ade20k(tmp_path):
    """Write a download with two images in each split."""
    source = tmp_path / "download"
    for split in ("training", "validation"):
        for kind, suffix in (("images", "jpg"), ("annotations", "png")):
            (source / kind / split).mkdir(parents=True)
            for number in range(2):
                Image.fromarray(np.full((8, 6), 150, np.uint8)).save(source / kind / split / f"ADE_{number}.{suffix}")
    return source


def test_ade20k(ade20k, tmp_path, capsys):
    arguments = ("ade20k", "--root", tmp_path)
    assert "sceneparsing.csail.mit.edu" in error_of(capsys, "prepare_data", *arguments)
    assert run("prepare_data", *arguments, "--from", ade20k) == 0
    assert "training: 2 images with label maps, 20208 missing" in capsys.readouterr().out
    labels = ade20k / "annotations" / "validation" / "ADE_1.png"
    for content, words in (
        (np.full((8, 6), 151, np.uint8), "ADE_1 (label 151)"),
        (np.zeros((6, 8), np.uint8), "ADE_1 ((8, 6) for an image of (6, 8))"),
    ):
        Image.fromarray(content).save(labels)
        line = error_of(capsys, "prepare_data", *arguments)
        assert "1 of 2 label maps in" in line
        assert words in line
    labels.write_bytes(b"")
    assert "1 of 2 label maps" in error_of(capsys, "prepare_data", *arguments)
    labels.unlink()
    assert "1 files of" in error_of(capsys, "prepare_data", *arguments)


def test_cityscapes(tmp_path, capsys):
    source = tmp_path / "download"
    for kind in ("leftImg8bit", "gtFine"):
        for split in ("train", "val"):
            (source / kind / split / "aachen").mkdir(parents=True)
    arguments = ("cityscapes", "--root", tmp_path, "--from", source)
    image = source / "leftImg8bit" / "val" / "aachen" / "aachen_000_leftImg8bit.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(image)
    assert "1 images of" in error_of(capsys, "prepare_data", *arguments)
    ids = source / "gtFine" / "val" / "aachen" / "aachen_000_gtFine_labelIds.png"
    Image.fromarray(np.full((4, 4), 26, np.uint8)).save(ids)
    assert run("prepare_data", *arguments) == 0
    assert "val: 1 images with label maps, 499 missing" in capsys.readouterr().out
    made = tmp_path / "cityscapes" / "gtFine" / "val" / "aachen" / "aachen_000_gtFine_labelTrainIds.png"
    assert (np.array(Image.open(made)) == 13).all()
    assert (tmp_path / "cityscapes" / "leftImg8bit" / "val" / "aachen" / image.name).exists()
    assert not (ids.parent / made.name).exists(), "the download is left as it was"
    assert run("prepare_data", "cityscapes", "--root", tmp_path) == 0
