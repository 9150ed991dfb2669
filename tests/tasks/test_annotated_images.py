"""Tests of the images and categories of COCO annotation files as other programs write them."""

import json
import math

import blobs
import numpy as np
import pytest
from PIL import Image

from ssm_core.errors import DataError
from ssm_train.data.images import size_in_file
from ssm_train.tasks.detection.annotations import read_annotations

NAN = math.nan


# --- Images


def images_of(coco, entries, folder=True):
    content = read_annotations(coco(images=entries), folder=str(coco.root / "train") if folder else None)
    return content, {image["id"]: (image["file_name"], image["height"], image["width"]) for image in content.images}


SIZES = [10**9, 0, -4, 2.5, "", "wide", None, ..., NAN, 10**999, [64], True]


@pytest.mark.parametrize("size", SIZES, ids=[str(size)[:8] for size in SIZES])
def test_a_size_that_is_missing_is_read_from_the_image(coco, lines, size):
    first, *others = coco.content["images"]
    content, found = images_of(coco, [blobs.changed(first, dict(width=size)), *others])
    assert found[10] == ("0.jpg", 64, 64)
    assert len(content.annotations) == 12
    assert "1 sizes of images read from their files (first: 0.jpg)" in lines[0]
    content, found = images_of(coco, [blobs.changed(first, dict(width=size)), *others], folder=False)
    assert set(found) == {11, 12, 13}
    assert len(content.annotations) == 9
    assert "1 of 4 images" in lines[1]
    assert "a size that is missing or impossible (first: 0.jpg)" in lines[1]
    assert "3 of 12 annotations" in lines[2]


def test_sizes_are_those_of_upright_images(tmp_path):
    exif = Image.Exif()
    for orientation in (1, 6):
        exif[274] = orientation
        Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
        assert size_in_file(tmp_path / "a.jpg") == ((20, 30) if orientation == 1 else (30, 20))
    np.save(tmp_path / "a.npy", np.zeros((20, 30, 5), np.int16))
    assert size_in_file(tmp_path / "a.npy") == (20, 30)


NAMES = [
    "0.JPG", ".\\0.jpg", "./0.jpg", "C:\\Users\\me\\set\\0.jpg", "/home/me/set/0.jpg", "../images/0.jpg",
    "images/0.jpg", "..\\..\\0.jpg",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_another_computer(coco, name):
    first, *others = coco.content["images"]
    content, found = images_of(coco, [{**first, "file_name": name}, *others])
    assert found[10][0] == "0.jpg"
    assert len(content.annotations) == 12


def test_names_in_sub_folders_and_with_accents(coco):
    for name in ("Größe.jpg", "a b.jpg"):
        place = coco.root / "train" / "Cam 1" / name
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64)).save(place)
    first, second, *others = coco.content["images"]
    decomposed = "cam 1\\Gro\u0308\u00dfe.JPG"
    _, found = images_of(coco, [{**first, "file_name": decomposed}, {**second, "file_name": "Cam 1/a b.jpg"}, *others])
    assert [found[number][0] for number in (10, 11)] == ["Cam 1/Größe.jpg", "Cam 1/a b.jpg"]


def test_names_that_lead_outside_are_left_out(coco, lines):
    (coco.root / "secret.jpg").write_bytes(b"x")
    first, second, *others = coco.content["images"]
    outside = [{**first, "file_name": "../secret.jpg"}, {**second, "file_name": "/etc/hostname"}]
    content, found = images_of(coco, [*outside, *others])
    assert set(found) == {12, 13}
    assert len(content.annotations) == 6
    assert "2 of 4 images" in lines[0]
    assert "a name outside of the folder of the images (first: ../secret.jpg)" in lines[0]


def test_two_files_that_could_be_meant(coco):
    """Two cameras have an image of the same name, and the folder has one of them."""
    first, second, *others = coco.content["images"]
    cameras = [{**first, "file_name": "C:\\left\\0.jpg"}, {**second, "file_name": "C:\\right\\0.jpg"}]
    content, found = images_of(coco, [*cameras, *others])
    assert set(found) == {12, 13}
    assert len(content.annotations) == 6


def test_an_image_that_is_listed_again_is_one(coco, lines):
    images, annotations = coco.content["images"], coco.content["annotations"]
    assert images_of(coco, [*images, images[0]])[0].annotations == annotations
    # A row for each object, as from a table: every row is an image with an id of its own.
    names = {image["id"]: image for image in images}
    rows = [{**names[a["image_id"]], "id": 100 + number} for number, a in enumerate(annotations)]
    own = [{**a, "image_id": 100 + number} for number, a in enumerate(annotations)]
    coco.path.write_text(json.dumps({**coco.content, "images": rows, "annotations": [*own, *own]}))
    content = read_annotations(coco.path, folder=str(coco.root / "train"))
    assert [image["file_name"] for image in content.images] == [image["file_name"] for image in images]
    first = {image["file_name"]: image["id"] for image in content.images}
    assert content.annotations == [{**a, "image_id": first[names[a["image_id"]]["file_name"]]} for a in annotations]
    assert "12 of 24 annotations" in lines[1]


def test_an_id_of_two_images_is_nobodys(coco, lines):
    first, second, *others = coco.content["images"]
    content, found = images_of(coco, [first, {**second, "id": "10.0"}, *others])
    assert set(found) == {12, 13}
    assert len(content.annotations) == 6
    assert "2 of 4 images" in lines[0]
    assert "2 with the id of another image (first: 0.jpg)" in lines[0]


def test_images_without_ids(coco):
    bare = [blobs.changed(image, dict(id=None)) for image in coco.content["images"]]
    names = {image["id"]: image["file_name"] for image in coco.content["images"]}
    named = [{**a, "image_id": names[a["image_id"]]} for a in coco.content["annotations"]]
    coco.path.write_text(json.dumps({**coco.content, "images": bare, "annotations": named}))
    content = read_annotations(coco.path)
    assert [image["id"] for image in content.images] == list(names.values())
    assert content.annotations == named
    coco.path.write_text(json.dumps({**coco.content, "images": bare}))
    with pytest.raises(DataError, match=r"4 of 4 images .* cannot be used: 4 with no id \(first: 0.jpg\)"):
        read_annotations(coco.path)


# --- Categories


def test_two_categories_of_one_id_are_nobodys(coco):
    disc, box = coco.content["categories"]
    third = {"id": 9, "name": "cone"}
    content = read_annotations(coco(categories=[disc, box, {**third, "id": 4}, third, third]))
    assert content.classes == ["disc", "cone"]
    assert content.annotations == [a for a in coco.content["annotations"] if a["category_id"] == 1]
    with pytest.raises(DataError, match=r"2 of 3 categories .* 2 with the id of another category \(first: disc\)"):
        read_annotations(coco(categories=[disc, box, {**third, "id": 1}]))


def test_categories_of_one_name_are_one_class(coco, lines):
    disc, box = coco.content["categories"]
    twice = [{"id": 0, "name": "box"}, disc, {"id": 8, "name": "disc "}, box]
    some = [
        {**a, "category_id": 8} if a["category_id"] == 1 and a["id"] % 2 else a for a in coco.content["annotations"]
    ]
    coco.path.write_text(json.dumps({**coco.content, "categories": twice, "annotations": some}))
    content = read_annotations(coco.path)
    assert sorted(content.classes) == ["box", "disc"]
    known = dict(zip(content.classes, content.category_ids(content.classes), strict=True))
    names = {1: "disc", 8: "disc", 4: "box"}
    assert [a["category_id"] for a in content.annotations] == [known[names[a["category_id"]]] for a in some]
    assert known["box"] == 4
    assert "2 categories of a name that another has, which are one class (first: disc)" in lines[0]


def test_roboflows_super_category_is_no_class(coco):
    above = {"id": 0, "name": "things", "supercategory": "none"}
    below = [{**category, "supercategory": "things"} for category in coco.content["categories"]]
    content = read_annotations(coco(categories=[above, *below]))
    assert content.classes == ["disc", "box"]
    assert content.category_ids(["things"]) == [0]
    first, *others = coco.content["annotations"]
    coco.path.write_text(
        json.dumps(
            {**coco.content, "categories": [above, *below], "annotations": [{**first, "category_id": 0}, *others]}
        )
    )
    assert read_annotations(coco.path).classes == ["things", "disc", "box"]


def test_categories_without_names_or_ids(coco):
    disc, box = coco.content["categories"]
    bare = [blobs.changed(disc, dict(name=None)), {"name": "cone"}, {"id": None}, "x", box]
    content = read_annotations(coco(categories=bare))
    assert content.classes == ["1", "cone", "box"]
    assert content.annotations == coco.content["annotations"]
