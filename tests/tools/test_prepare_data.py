"""tools/prepare_data.py on small stand-ins."""

import gzip
import shutil
import struct

import numpy as np
import pytest
from command_line import error_of, run

from ssm_core.engine.datasets.fashion_mnist import FILES

WNIDS = [f"n{number:08d}" for number in range(1000)]


def write_idx(path, array):
    header = struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), 1))


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    """A folder with four files of Fashion-MNIST's shape, all zeros and the ten labels in turn."""
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
    """A download with a thousand classes of one image, validation images flat beside a mapping."""
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
    # What is there is only checked.
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
