"""Tests that names in files and on command lines do not lead outside the folder that was given."""

import json

import pytest
import torch
from command_line import error_of

from ssm_core.errors import DataError
from ssm_train.data.inside import check_inside, check_name
from ssm_train.data.prepare.imagenet import prepare_imagenet

OUTSIDE = ("../x", "a/../../x", "/etc", "..", ".", "", "a\0b", "..\\x", 7, None)


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_outside(name):
    with pytest.raises(DataError, match=r"^list\.txt names .*, which is no place within its folder$"):
        check_inside(name, "list.txt")


def test_names_that_stay_inside():
    for name in ("a.jpg", "val/a.jpg", "..a", "a..b/c", "n01440764"):
        assert check_inside(name, "list.txt") == name
    with pytest.raises(DataError, match="has a folder in it"):
        check_name("val/a.jpg", "list.txt")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("synset_labels.txt", "../../outside"),
        ("val_map.txt", "1.JPEG n1/../../../outside"),
        ("synset_labels.txt", "/tmp"),
    ],
)
def test_classes_of_imagenet(file, line, tmp_path):
    source = tmp_path / "download"
    (source / "train" / "n1").mkdir(parents=True)
    (source / "val").mkdir()
    (source / "val" / "1.JPEG").write_bytes(b"x")
    (source / file).write_text(f"{line}\n")
    with pytest.raises(DataError, match=rf"{file} names "):
        prepare_imagenet(tmp_path / "root", source)
    assert not (tmp_path / "outside").exists()
    assert not list((tmp_path / "root").rglob("1.JPEG"))


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname"])
def test_images_of_coco(name, tmp_path):
    from ssm_train.tasks.detection.annotations import read_annotations

    images = [{"id": 1, "file_name": name, "height": 4, "width": 4}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}))
    with pytest.raises(DataError, match=r"a\.json names .*, which is no place within its folder"):
        read_annotations(path)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b"])
def test_names_of_published_files(name, tmp_path, capsys):
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "a.pth")
    assert "--name names" in error_of(capsys, "publish_checkpoint", tmp_path / "a.pth", "--name", name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
