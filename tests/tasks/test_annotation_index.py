"""Tests of the index of an annotation file: it holds what the file says, and is never used for another file."""

import contextlib
import os
import pickle

import bad_places
import blobs
import pytest
from annotation_indices import ALL, FORK, indices, opened, took
from mmdet.datasets import CocoDataset
from pycocotools.coco import COCO

from ssm_core.errors import DataError
from ssm_train.tasks.detection import CocoInstanceMetric, CocoInstances, index
from ssm_train.tasks.detection.annotations import read_annotations
from ssm_train.tasks.detection.index import Indexing, open_annotations
from tools.benchmarks.annotations import CATEGORIES, STEPS, write_file


@contextlib.contextmanager
def rewritten(path):
    """Give a file that is changed meanwhile the times that it had, as far as a program can."""
    before = path.stat()
    yield
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# --- What it holds


def test_a_sound_file_is_that_of_mmdet_and_pycocotools(tmp_path, capsys):
    path = tmp_path / "a.json"
    write_file(path, 60, 300)
    options = dict(
        ann_file=str(path), data_prefix=dict(img=str(tmp_path)), pipeline=STEPS,
        metainfo=dict(classes=[f"class {number + 1}" for number in range(CATEGORIES)]),
        filter_cfg=dict(filter_empty_gt=True, min_size=400),
    )  # fmt: skip
    theirs = CocoDataset(**options)
    for size in (None, 0, 0):
        ours = CocoInstances(**options, index_from=size)
        assert len(ours) == len(theirs) < 60
        for place in range(len(ours)):
            assert ours.get_data_info(place) == theirs.get_data_info(place)
        assert ours.get_data_info(-1) == theirs.get_data_info(-1)
        assert [ours.get_cat_ids(place) for place in range(9)] == [theirs.get_cat_ids(place) for place in range(9)]
        for chosen in (7, -7, [3, 1, 4, 1]):
            some, others = ours.get_subset(chosen), theirs.get_subset(chosen)
            assert [info["img_id"] for info in map(some.get_data_info, range(len(some)))] == [
                info["img_id"] for info in map(others.get_data_info, range(len(others)))
            ]
        assert len(CocoInstances(**options, index_from=size, indices=5)) == 5
    content = open_annotations(path, indexing=ALL)
    truth, expected = content.as_coco({number + 1: number + 1 for number in range(CATEGORIES)}), COCO(str(path))
    assert (truth.anns, truth.imgs, truth.cats) == (expected.anns, expected.imgs, expected.cats)
    assert truth.imgToAnns == expected.imgToAnns
    capsys.readouterr()


FAULTY = dict(
    annotations=[
        ("no image", dict(image_id=99)),
        ("stray part", dict(segmentation=[[10, 12, 30, 12, 30, 42, 10, 42], [1, 2, 3]])),
        ("no mask", dict(segmentation=None)),
        ("lengths", dict(segmentation=dict(size=[64, 64], counts=[10, 20, 4066]))),
        ("texts", dict(bbox=["1", "2", "30", "40.5"], area=None, id="x", iscrowd="1")),
    ]
)


def test_a_faulty_file_is_read_and_said_alike_each_time(coco, lines):
    """All of it is said: what is left out, what is filled in, and which objects have no mask."""
    first, *images = coco.content["images"]
    changed = [blobs.changed(first, dict(width=..., file_name="C:\\x\\0.JPG", id="10", more={"a": [None, 1e400]}))]
    annotations = [
        blobs.changed(entry, change)
        for entry, (_, change) in zip(coco.content["annotations"], FAULTY["annotations"], strict=False)
    ]
    coco(images=[*changed, *images], annotations=annotations + coco.content["annotations"][len(annotations) :])
    plain = read_annotations(coco.path, folder=str(coco.root / "train"))
    said = list(lines)
    assert len(said) == 2
    for expected in (False, True, True):
        lines.clear()
        found = opened(coco, masks=False)
        assert [line for line in lines if "index" not in line] == said
        assert took(lines) == expected
        assert found.annotations == plain.annotations
        assert repr(found.images) == repr(plain.images)  # NaN is not itself
        assert (found.categories, found.classes, found.source) == (plain.categories, plain.classes, plain.source)
        assert found.with_masks().annotations == plain.with_masks().annotations
        assert lines[-1] == f"1 of 11 objects of {coco.path} have no mask and are left out"
        for place in range(4):
            image, objects = found.image(place)
            assert objects == [item for item in plain.annotations if item["image_id"] == image["id"]]


def test_the_metric_takes_what_the_dataset_has_read(coco, lines):
    steps = [dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True)]
    options = dict(ann_file="train.json", data_root=str(coco.root), data_prefix=dict(img="train"), pipeline=steps)
    for expected in (False, True):
        data = CocoInstances(**options, test_mode=True, index_from=0)
        metric = CocoInstanceMetric()
        metric.take_data(data)
        metric.dataset_meta = data.metainfo
        assert metric.content.columns is data.coco_annotations().columns
        assert [metric.truth.anns[number + 1]["bbox"] for number in range(12)] == [
            entry["bbox"] for entry in coco.content["annotations"]
        ]
        assert took(lines) == expected


def test_workers_get_the_place_of_the_data_and_not_the_data(tmp_path):
    write_file(tmp_path / "a.json", 200, 4000)
    data = [
        CocoInstances(ann_file=str(tmp_path / "a.json"), data_prefix=dict(img=""), index_from=size)
        for size in (None, 0)
    ]
    texts = [pickle.dumps(one) for one in data]
    assert len(texts[1]) < 20_000 < 1_000_000 < len(texts[0])
    copies = [pickle.loads(text) for text in texts]
    assert copies[0].get_data_info(7) == copies[1].get_data_info(7) == data[0].get_data_info(7)


def test_small_files_and_none_at_all(coco):
    opened(coco, indexing=Indexing())
    opened(coco, indexing=Indexing(smallest=None))
    assert not indices(coco)
    with pytest.raises(DataError, match="there is no annotation file"):
        open_annotations(coco.root / "missing.json", indexing=ALL)


def test_a_file_that_cannot_be_used_gets_no_index(coco):
    coco(annotations=[{**entry, "image_id": 99} for entry in coco.content["annotations"]])
    for _ in range(2):
        with pytest.raises(DataError, match="12 of 12 annotations"):
            opened(coco)
    coco(annotations=[{**entry, "bbox": 3, "segmentation": 0} for entry in coco.content["annotations"][:1]])
    with pytest.raises(DataError, match="annotation 1 of"):
        opened(coco, masks=False, bad_annotations="raise")
    assert not [path for path in coco.root.iterdir() if path.name.startswith(".")]


# --- When it is made anew


def other_content(coco):
    text = coco.path.read_text()
    with rewritten(coco.path):
        coco.path.write_text(text.replace('"iscrowd": 0', '"iscrowd": 1', 1))


def other_size(coco):
    coco(annotations=coco.content["annotations"][1:])


def a_file_in_its_place(coco):
    """Another file with the same size and time."""
    before = coco.path.stat()
    other = coco.path.with_name("other")
    other.write_text(coco.path.read_text().replace('"iscrowd": 0', '"iscrowd": 1', 1))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(coco.path)


def other_images(coco):
    (coco.root / "train" / "more.jpg").write_bytes(b"")


def other_image(coco):
    (coco.root / "train" / "0.jpg").write_bytes((coco.root / "train" / "1.jpg").read_bytes())


def truncated(coco):
    (path,) = indices(coco)
    os.truncate(path, path.stat().st_size - 100)


def emptied(coco):
    (path,) = indices(coco)
    os.truncate(path, 0)


def damaged(coco):
    (path,) = indices(coco)
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(content)


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def a_pickle(coco):
    (path,) = indices(coco)
    path.write_bytes(pickle.dumps(Trap()))


def of_another_file(coco):
    """The index of another file, under the name of this one's."""
    (path,) = indices(coco)
    text = coco.path.read_text()
    coco(annotations=coco.content["annotations"][1:])
    path.unlink()
    opened(coco)
    coco.path.write_text(text)


CHANGES = {
    other_content: "has another content",
    other_size: "bytes and had",
    a_file_in_its_place: "has another content",
    other_images: "had other files",
    other_image: "was another one",
    truncated: "is no file of arrays, or not all of it",
    emptied: "is no file of arrays, or not all of it",
    damaged: "is damaged",
    a_pickle: "is no file of arrays",
    of_another_file: "bytes and had",
}


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_an_index_that_is_not_of_this_file_is_made_anew(coco, lines, monkeypatch, change, settled):
    first, *others = coco.content["images"]
    coco(images=[blobs.changed(first, dict(height=...)), *others])
    coco.content["images"][0] = blobs.changed(first, dict(height=...))
    if settled:
        long_ago = coco.path.stat().st_mtime_ns - 10**12
        os.utime(coco.path, ns=(long_ago, long_ago))
        monkeypatch.setattr("ssm_train.data.source_mark._SETTLED", -(10**12))
    opened(coco)
    assert not took(lines)
    opened(coco)
    assert took(lines)
    change(coco)
    lines.clear()
    found = opened(coco)
    assert any("is made anew" in line and CHANGES[change] in line for line in lines)
    assert not took(lines)
    assert found.annotations == read_annotations(coco.path, folder=str(coco.root / "train"), masks=True).annotations
    lines.clear()
    assert opened(coco).annotations == found.annotations
    assert took(lines)
    assert not os.path.exists("trapped")


def test_another_version_makes_it_anew(coco, lines, monkeypatch):
    opened(coco)
    for name, value in (("_FORMAT", 2), ("version", lambda package: "99")):
        monkeypatch.setattr(index, name, value)
        lines.clear()
        opened(coco)
        assert any("is made anew" in line and "another version" in line for line in lines)
        assert len(indices(coco)) == 1


def test_each_setting_has_an_index_of_its_own(coco, lines):
    first, *others = coco.content["annotations"]
    coco(annotations=[blobs.changed(first, dict(segmentation=...)), *others])
    (coco.root / "moved").symlink_to(coco.root / "val")
    for again in (False, True):
        for masks, folder, bad in ((True, "train", "skip"), (False, "train", "skip"), (False, "moved", "skip")):
            found = open_annotations(coco.path, bad, str(coco.root / folder), masks, ALL)
            assert took(lines) == again
            assert len(found.annotations) == 12 - masks
        assert len(open_annotations(coco.path, "raise", None, False, ALL).annotations) == 12
        assert took(lines) == again
    assert len(indices(coco)) == 4


def test_a_file_that_was_only_touched_keeps_its_index(coco, lines):
    opened(coco)
    lines.clear()
    os.utime(coco.path)
    coco.path.chmod(0o600)
    opened(coco)
    assert took(lines)


def test_a_data_set_that_moved_keeps_its_index(coco, lines, tmp_path):
    opened(coco)
    lines.clear()
    target = tmp_path / "elsewhere"
    target.mkdir()
    for name in ("train", "train.json", *(path.name for path in indices(coco))):
        (coco.root / name).rename(target / name)
    found = open_annotations(target / "train.json", folder=str(target / "train"), masks=True, indexing=ALL)
    assert took(lines)
    assert str(found.source) == str(target / "train.json")


def test_images_beside_their_annotations(tmp_path, lines):
    """As Roboflow exports them. The index is no image."""
    blobs.write(tmp_path)
    (tmp_path / "train.json").rename(tmp_path / "train" / "_annotations.json")
    for expected in (False, True):
        open_annotations(tmp_path / "train" / "_annotations.json", folder=str(tmp_path / "train"), indexing=ALL)
        assert took(lines) == expected


# --- Where it is


def test_a_folder_of_ones_own(coco, lines, tmp_path):
    for expected in (False, True):
        opened(coco, indexing=Indexing(smallest=0, folder=str(tmp_path / "a" / "b")))
        assert took(lines) == expected
    assert not indices(coco)
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1


def on_a_disk(coco, place, full):
    bad_places.try_own_mounts()
    os.environ["XDG_CACHE_HOME"] = str(coco.root / "cache")
    disk = bad_places.disk(place, size="200k")
    for name in ("train", "train.json"):
        os.system(f"cp -r {coco.root / name} {disk}")
    (bad_places.fill if full else bad_places.protect)(disk)
    coco.path = disk / "train.json"
    for _ in range(2):
        assert len(open_annotations(coco.path, folder=str(disk / "train"), masks=True, indexing=ALL).annotations) == 12
    found = [path for path in (coco.root / "cache").rglob("*") if path.is_file()]
    assert [path.suffix for path in found] == ([] if full else [".index"])


@pytest.mark.parametrize("full", [False, True], ids=["read-only", "full"])
def test_a_disk_that_takes_no_index(coco, tmp_path, full):
    """A read-only disk has none, and the cache has it. A full disk has none, and the content is used."""
    process = FORK.Process(target=on_a_disk, args=(coco, tmp_path / "disk", full))
    process.start()
    process.join(60)
    if process.exitcode == bad_places.NOT_ALLOWED:
        pytest.skip("this system lets no process have mounts of its own")
    assert process.exitcode == 0
