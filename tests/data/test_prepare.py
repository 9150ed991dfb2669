"""Tests of the prepared sets: exact masks, disjoint parts, and the same bytes every time."""

import json
import os
from collections import Counter

import numpy as np
import pytest
import stand_ins
from PIL import Image
from pycocotools import mask as codec
from pycocotools.coco import COCO

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.datasets.fashion_mnist import FILES
from ssm_train.data.prepare import composite, nuclei
from ssm_train.data.prepare.cityscapes import training_labels
from ssm_train.data.prepare.coco_json import CocoFile
from ssm_train.data.prepare.largest_item import prepare_largest_item
from ssm_train.data.prepare.photos import PHOTOS, load_photo
from ssm_train.data.prepare.processes import for_each


def open_coco(path):
    coco = COCO()
    coco.dataset = json.loads(path.read_text())
    coco.createIndex()
    return coco


def pixels(path):
    return np.array(Image.open(path))


@pytest.mark.parametrize("seed", range(3))
def test_masks_round_trip(tmp_path, seed):
    draw = np.random.RandomState(seed)
    masks = [draw.rand(33, 20) < share for share in (0.01, 0.5, 0.99)] + [np.ones((33, 20), bool)]
    masks = [mask | (np.arange(660).reshape(33, 20) == 7) for mask in masks]  # no mask is empty
    file = CocoFile(["a", "b"])
    image = file.add_image("x.png", 33, 20)
    for number, mask in enumerate(masks):
        file.add_instance(image, 1 + number % 2, mask, crowd=number == 1)
    file.write(tmp_path / "x.json")
    coco = open_coco(tmp_path / "x.json")
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image]))
    for number, (mask, annotation) in enumerate(zip(masks, annotations, strict=True)):
        assert np.array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
        y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert annotation["bbox"] == [x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1]
        assert (annotation["category_id"], annotation["iscrowd"]) == (1 + number % 2, number == 1)


@pytest.fixture
def composer():
    images, classes = stand_ins.items(30, seed=0)
    photos = [np.full((90, 120, 3), 7, np.uint8), np.full((64, 64, 3), 5, np.uint8)]
    return composite.Composer(images, classes, photos, size=96, seed=0, stream=0)


def test_scenes_are_exact(composer):
    occluded = 0
    for number in range(40):
        scene = composer.scene(number)
        covered = np.zeros((96, 96), int)
        for category, mask in scene.instances:
            assert (scene.labels[mask] == category).all()
            covered += mask
        assert covered.max() == 1, "visible masks do not overlap"
        assert np.array_equal(covered == 0, scene.labels == composite.BACKGROUND)
        # The photos are darker than 8, and a pixel of an item is at least 17 × 0.45. So brightness tells them apart.
        assert np.array_equal(covered == 1, (scene.image >= 8).all(2))
        assert len(np.unique(scene.image[covered == 0], axis=0)) == 1, "one colour stays one colour"
        occluded += any(touching(a, b) for _, a in scene.instances for _, b in scene.instances if a is not b)
    assert occluded > 10


def test_backgrounds_are_cut_mirrored_and_dyed(composer):
    ramp = np.broadcast_to(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], (100, 200, 3))
    composer = composite.Composer(composer.items, composer.classes, [ramp], size=50, seed=0, stream=0)
    zooms, directions, colours = [], set(), []
    for number in range(60):
        background = composer._background(np.random.RandomState(number))
        assert background.shape == (50, 50, 3)
        assert background.dtype == np.uint8
        rise = background.mean(0)[-1] - background.mean(0)[0]  # each channel's, from left to right
        directions.add(tuple(np.sign(rise)))
        colours.append(rise / np.abs(rise).max())
        zooms.append(np.abs(rise).max())
    assert directions == {(1, 1, 1), (-1, -1, -1)}
    assert np.ptp(np.abs(colours), axis=0).min() > 0.3, "each channel has a factor of its own"
    # A cut of all 100 rows covers half of the ramp, 128 of its values. The smallest cut covers a fifth of that.
    assert 0.45 * 0.2 * 128 * 0.9 < min(zooms) < 0.45 * 0.5 * 128, "cuts smaller than half the photo"
    assert 90 < max(zooms) <= 128


def touching(a, b):
    return (a[1:] & b[:-1]).any() or (a[:, 1:] & b[:, :-1]).any()


def test_half_of_every_item_is_seen(composer, monkeypatch):
    placed = []
    item = composite.Composer._item

    def noting(self, *arguments):
        placed.append(item(self, *arguments))
        return placed[-1]

    monkeypatch.setattr(composite.Composer, "_item", noting)
    for number in range(40):
        placed.clear()
        sizes = Counter()
        scene = composer.scene(number)
        sizes.update(int(mask.sum()) for _, mask in placed)
        assert 2 <= len(placed) <= 6
        for _, mask in scene.instances:
            assert mask.sum() >= min(sizes) / 2
        # The frontmost item is whole.
        assert scene.instances[-1][1].sum() in sizes


def test_a_larger_set_begins_with_the_smaller_one_and_seeds_differ(composer):
    first, again = composer.scene(5), composer.scene(5)
    assert np.array_equal(first.image, again.image)
    for change in ({"seed": 1}, {"stream": 1}):
        settings = dict(seed=0, stream=0) | change
        other = composite.Composer(composer.items, composer.classes, [np.zeros((64, 64, 3), np.uint8)], 96, **settings)
        assert not np.array_equal(first.labels, other.scene(5).labels)


def test_composite_files(tmp_path):
    source = stand_ins.fashion_mnist(tmp_path / "download")
    for root, processes in (("one", 1), ("two", 3)):
        (tmp_path / root / "composite" / "train").mkdir(parents=True)
        (tmp_path / root / "composite" / "train" / "old.jpg").touch()
        counts = {"train_count": 4, "val_count": 2}
        words = composite.prepare_composite(tmp_path / root, source, size=96, processes=processes, **counts)
    assert "4 composited images" in words
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) == 4 + 2 * (4 + 2) + 2
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)

    folder = tmp_path / "one" / "composite"
    for split, count in (("train", 4), ("val", 2)):
        coco = open_coco(folder / f"{split}.json")
        assert len(coco.imgs) == count
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == composite.CLASSES
        for image in coco.imgs.values():
            labels = np.zeros((96, 96), np.uint8)
            for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
                labels[coco.annToMask(annotation) == 1] = annotation["category_id"]
            name = image["file_name"].replace(".jpg", ".png")
            assert np.array_equal(labels, pixels(folder / f"{split}_labels" / name))
            assert pixels(folder / split / image["file_name"]).shape == (96, 96, 3)


def test_the_largest_item_is_the_class_of_a_scene(tmp_path):
    source = stand_ins.fashion_mnist(tmp_path / "download")
    composite.prepare_composite(tmp_path, source, size=96, train_count=6, val_count=3, processes=1)
    assert "6 train images" in prepare_largest_item(tmp_path, None)
    for split, count in (("train", 6), ("val", 3)):
        images, labels = (np.load(tmp_path / "largest-item" / f"{split}_{part}.npy") for part in ("images", "labels"))
        coco = open_coco(tmp_path / "composite" / f"{split}.json")
        assert (images.shape, labels.shape) == ((count, 96, 96, 3), (count,))
        for found, label, image in zip(images, labels, coco.imgs.values(), strict=True):
            assert np.array_equal(found, pixels(tmp_path / "composite" / split / image["file_name"]))
            items = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
            seen = [int(coco.annToMask(item).sum()) for item in items]
            assert label == items[int(np.argmax(seen))]["category_id"] - 1
    (tmp_path / "composite" / "val.json").write_text("{}")
    with pytest.raises(DataError, match=r"val\.json is no COCO file of instances"):
        prepare_largest_item(tmp_path, None)
    with pytest.raises(DataError, match="make it with `tree-ssm prepare-data composite`"):
        prepare_largest_item(tmp_path / "none", None)


def test_a_scene_that_is_missing_is_named(tmp_path):
    """An error of reading is not taken for one of writing."""
    folder = tmp_path / "composite"
    folder.mkdir()
    content = {"categories": [{"id": 1}], "annotations": [{"image_id": 1, "area": 3, "category_id": 1}]}
    (folder / "train.json").write_text(json.dumps(content | {"images": [{"id": 1, "file_name": "a.png"}]}))
    with pytest.raises(DataError, match=r"cannot read the image .*composite/train/a\.png: No such file"):
        prepare_largest_item(tmp_path, None)
    assert not (tmp_path / "largest-item").exists()
    for faulty in (json.dumps(content | {"images": [{"id": 1, "file_name": 5}]}), 100_000 * "["):
        (folder / "train.json").write_text(faulty)
        with pytest.raises(DataError, match="is no COCO file of instances"):
            prepare_largest_item(tmp_path, None)


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_items_is_one_or_more(tmp_path, count):
    with pytest.raises(ConfigError, match="--items from 1 on"):
        composite.prepare_composite(tmp_path, tmp_path, items=count)


@pytest.mark.parametrize(("images", "labels"), [(5, [0] * 4), (5, [0, 1, 2, 3, 10]), (0, [])])
def test_items_have_a_label_each_of_the_known_classes(tmp_path, images, labels):
    for split in ("train", "test"):
        stand_ins.write_idx(tmp_path / FILES[split][0], np.full((images, 28, 28), 99, np.uint8))
        stand_ins.write_idx(tmp_path / FILES[split][1], np.array(labels, np.uint8))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz does not belong to"):
        composite.prepare_composite(tmp_path / "scenes", tmp_path, 64, 1, 1, processes=1, items=3)


def test_scenes_of_the_first_items(tmp_path):
    """Scenes of the first 30 items are those of files that have no others."""
    images, labels = stand_ins.items(50, 0)
    counts = {"size": 64, "train_count": 3, "val_count": 1, "processes": 1}
    for name, count in (("all", 50), ("few", 30)):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            stand_ins.write_idx(tmp_path / name / FILES[split][0], images[:count])
            stand_ins.write_idx(tmp_path / name / FILES[split][1], labels[:count])
        composite.prepare_composite(tmp_path / f"{name} scenes", tmp_path / name, items=30, **counts)
    files = sorted((tmp_path / "few scenes").rglob("train/*.jpg"))
    assert len(files) == 3
    for path in files:
        other = tmp_path / "all scenes" / path.relative_to(tmp_path / "few scenes")
        assert path.read_bytes() == other.read_bytes()
    with pytest.raises(DataError, match="has 30 training images, and --items asks for 31"):
        composite.prepare_composite(tmp_path / "more", tmp_path / "few", items=31, **counts)


@pytest.mark.parametrize(("count", "processes"), [(1, 4), (5, 1), (40, 2), (7, 3)])
def test_results_of_processes_are_in_order(count, processes):
    done = list(for_each(lambda number: (number, os.getpid()), count, processes))
    assert [number for number, _ in done] == list(range(count))
    here = {process == os.getpid() for _, process in done}
    assert here == {min(count, processes) == 1}


def test_an_error_in_a_process_comes_out():
    with pytest.raises(DataError, match="the third"):
        list(for_each(fail_at_three, 6, 2))


def fail_at_three(number):
    if number == 3:
        raise DataError("the third")


def test_no_photo_is_in_both_parts():
    assert not set(PHOTOS["train"]) & set(PHOTOS["val"])
    photos = [load_photo(name) for names in PHOTOS.values() for name in names]
    assert all(photo.dtype == np.uint8 and photo.shape[2] == 3 and min(photo.shape[:2]) >= 300 for photo in photos)
    assert len({photo.tobytes() for photo in photos}) == len(photos)


@pytest.mark.parametrize(
    ("option", "value"), [("size", 63), ("train_count", 0), ("val_count", 0), ("seed", -1), ("processes", 0)]
)
def test_composite_options(tmp_path, option, value):
    with pytest.raises(ConfigError, match="--size from 64 on"):
        composite.prepare_composite(tmp_path, None, **{option: value})


def test_label_map_against_brute_force():
    ids = np.kron(np.random.RandomState(0).randint(0, 4, (6, 5)), np.ones((4, 4), int))
    height, width = ids.shape
    for y in range(height):
        for x in range(width):
            around = ids[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            expected = (
                nuclei.BACKGROUND
                if ids[y, x] == 0
                else nuclei.BOUNDARY
                if (around != ids[y, x]).any()
                else nuclei.NUCLEUS
            )
            assert nuclei.label_map(ids)[y, x] == expected


def test_nuclei(nuclei_root):
    folder = nuclei_root / "nuclei"
    ids = pixels(folder / "mask2d.tif")
    labels = nuclei.label_map(ids)
    assert len(np.unique(ids)) - 1 == 125
    seen = np.zeros(ids.shape, bool)
    crowds = 0
    for split, start in (("train", 0), ("val", 384)):
        coco = open_coco(folder / f"{split}.json")
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["nucleus"]
        part = ids[:, :384] if split == "train" else ids[:, 384:]
        for image in coco.imgs.values():
            y, x = (int(n) for n in image["file_name"].removesuffix(".png").split("_"))
            tile = part[y : y + 128, x : x + 128]
            assert pixels(folder / split / image["file_name"]).shape == (128, 128, 3)
            place = (slice(y, y + 128), slice(start + x, start + x + 128))
            assert np.array_equal(pixels(folder / f"{split}_labels" / image["file_name"]), labels[place])
            seen[place] = True
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
            masks = [codec.decode(a["segmentation"]).astype(bool) for a in annotations]
            assert {m.tobytes() for m in masks} == {(tile == i).tobytes() for i in np.unique(tile) if i}
            for annotation, mask in zip(annotations, masks, strict=True):
                whole = (part == tile[mask][0]).sum()
                assert annotation["iscrowd"] == (mask.sum() < 0.25 * whole)
                crowds += annotation["iscrowd"]
    assert seen.all()
    assert crowds


def test_nuclei_from_elsewhere(nuclei_root, tmp_path):
    with pytest.raises(DataError, match=r"has no img2d\.tif and no mask2d\.tif"):
        nuclei.prepare_nuclei(tmp_path, tmp_path)
    (tmp_path / "stardist.whl").write_bytes(b"PK")
    with pytest.raises(DataError, match="is no wheel of stardist"):
        nuclei.prepare_nuclei(tmp_path, tmp_path / "stardist.whl")
    for name in nuclei.FILES:
        (tmp_path / name).write_bytes((nuclei_root / "nuclei" / name).read_bytes() + b"x")
    with pytest.raises(DataError, match=r"img2d\.tif is not the file of stardist 0\.9\.2"):
        nuclei.prepare_nuclei(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=r"--tile of 32 … 128 pixels, not 200"):
        nuclei.prepare_nuclei(tmp_path, nuclei_root / "nuclei", tile=200)


def test_nuclei_that_cannot_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(nuclei, "_DOWNLOAD", ("download", "--no-index", "--quiet", "stardist==0.9.2"))
    monkeypatch.setattr(nuclei.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"cannot download stardist .*--from"):
        nuclei.prepare_nuclei(tmp_path, None)


def test_cityscapes_labels():
    labels = training_labels(np.arange(36, dtype=np.uint8).reshape(6, 6)).ravel()
    assert [i for i, label in enumerate(labels) if label != 255][:5] == [7, 8, 11, 12, 13]
    assert sorted(label for label in labels if label != 255) == list(range(19))
    assert labels[26] == 13, "car"
