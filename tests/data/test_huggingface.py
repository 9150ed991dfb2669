"""Datasets of Hugging Face as they are on disks: the images are those of ImageFolder, and bad rows are named."""

import io
import pickle
import sys
from contextlib import suppress

import datasets
import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from ssm_core.errors import ConfigError, DataError, MissingPackageError
from ssm_train.data.datasets import HuggingFaceImages, ImageFolder
from ssm_train.data.huggingface import load_table, table_rows


@pytest.fixture(autouse=True)
def _offline(tmp_path_factory, monkeypatch):
    """Keep what the package writes in a folder of its own, and let nothing ask the Hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def plain(image):
    return torch.from_numpy(np.array(image))


def encoded(value, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (4, 6), (value, 0, 0)).save(file, kind)
    return {"bytes": file.getvalue(), "path": f"{value}.{kind.lower()}"}


NAMES = datasets.ClassLabel(names=["ant", "bee"])
FEATURES = {"image": datasets.Image(), "label": NAMES}


def typed(columns, **features):
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def save(folder, data):
    data.save_to_disk(folder)
    return str(folder)


@pytest.fixture
def images(tmp_path):
    """The same images as an image folder for each split, and the splits as tables."""
    splits = {}
    for split, count in (("train", 6), ("val", 3)):
        rows = []
        for number in range(count):
            path = tmp_path / "folder" / split / ["ant", "bee"][2 * number // count] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(10 * number)["bytes"])
            rows.append({"bytes": path.read_bytes(), "path": path.name})
        labels = [2 * number // count for number in range(count)]
        splits[split] = typed({"image": rows, "label": labels}, **FEATURES)
    return tmp_path / "folder", datasets.DatasetDict(splits)


def same(ours, theirs):
    assert ours.metainfo == theirs.metainfo
    assert ours.labels == theirs.labels
    return all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(ours, theirs, strict=True))


def test_folders_are_image_folders(images, tmp_path):
    folder, splits = images
    splits.save_to_disk(tmp_path / "disk")
    (tmp_path / "files").mkdir()
    for split, name in (("train", "train"), ("val", "validation")):
        splits[split].to_parquet(tmp_path / "files" / f"{name}-00000-of-00001.parquet")
    for split, name in (("train", "train"), ("val", "validation")):
        theirs = ImageFolder(plain, folder, split=split)
        assert same(HuggingFaceImages(plain, str(tmp_path / "disk"), split), theirs)
        assert same(HuggingFaceImages(plain, str(tmp_path / "disk" / split), split), theirs)
        assert same(HuggingFaceImages(plain, str(tmp_path / "files"), name), theirs)
        loaded = HuggingFaceImages(plain, str(folder), name)  # the package reads image folders too, in another order
        assert loaded.metainfo == theirs.metainfo
        pairs = [
            sorted((int(one["inputs"].max()), one["data_samples"]["label"]) for one in d) for d in (loaded, theirs)
        ]
        assert pairs[0] == pairs[1]
    grey = HuggingFaceImages(plain, str(tmp_path / "disk"), "train", mode="L", fold=dict(of=3, part="held_out"))
    assert [one["inputs"].shape for one in grey] == [(6, 4)] * 2
    part = HuggingFaceImages(plain, str(tmp_path / "files"), "train[:50%]")
    assert len(part) == 3
    copy = pickle.loads(pickle.dumps(part))  # as workers that are not forked get it
    assert torch.equal(copy[2]["inputs"], part[2]["inputs"])
    assert part.name(2) == f"{tmp_path / 'files'}:train[:50%][2]"


def test_labels(tmp_path):
    def data(labels, kind, **settings):
        rows = {"image": [encoded(n) for n in range(len(labels))], "label": labels}
        path = save(tmp_path / str(len(list(tmp_path.iterdir()))), typed(rows, image=datasets.Image(), label=kind))
        found = HuggingFaceImages(plain, path, **settings)
        return found.labels, found.classes

    assert data([1, 0], NAMES) == ([1, 0], ["ant", "bee"])
    assert data([1, 0], NAMES, classes=["cat", "bee", "ant"]) == ([1, 2], ["cat", "bee", "ant"])
    assert data(["b", "a"], datasets.Value("string")) == ([1, 0], ["a", "b"])
    assert data([2, 0], datasets.Value("int16")) == ([2, 0], ["0", "1", "2"])
    assert data([2.0, None, 0.0], datasets.Value("float64")) == ([2, 0], ["0", "1", "2"])
    assert data([True, False], datasets.Value("bool")) == ([1, 0], ["false", "true"])
    assert data([[1, 0], []], datasets.List(NAMES)) == ([[0, 1], []], ["ant", "bee"])
    assert data([["x"], ["y", "x"]], datasets.List(datasets.Value("string"))) == ([[0], [0, 1]], ["x", "y"])


def test_columns(tmp_path):
    rows = {"a": [encoded(1)], "b": [encoded(2)], "n": [7], "m": [1]}
    kinds = dict(a=datasets.Image(), b=datasets.Image(), n=datasets.Value("int64"), m=NAMES)
    path = save(tmp_path / "x", typed(rows, **kinds))
    assert int(HuggingFaceImages(plain, path, image="b")[0]["inputs"].max()) == 2
    for settings, words in (
        (
            {},
            r"not clear which column is the image: name it by image; .* has a \(Image\), b \(Image\), n ",
        ),
        ({"image": "c"}, "there is no column 'c'"),
        ({"image": "n"}, "has the type Value, and images are Image or bytes"),
        ({"image": "a", "label": "b"}, "has the type Image, which is none of labels"),
    ):
        with pytest.raises(ConfigError, match=words):
            HuggingFaceImages(plain, path, **settings)
    raw = typed({"img": [encoded(5)["bytes"]], "label": [0]}, img=datasets.Value("binary"), label=NAMES)
    assert int(HuggingFaceImages(plain, save(tmp_path / "y", raw), image="img")[0]["inputs"].max()) == 5


def test_faulty_rows(tmp_path, lines):
    rows = [encoded(n) for n in range(8)]
    rows[5] = {"bytes": None, "path": "/nowhere/x.png"}
    rows[6] = None
    rows[7] = {"bytes": encoded(9)["bytes"][:30], "path": None}
    path = str(tmp_path / "x")
    (tmp_path / "x").mkdir()
    parquet.write_table(pyarrow.table({"image": rows, "label": [0, -1, None, 1, 0, 0, 1, 1]}), f"{path}/train.parquet")
    data = HuggingFaceImages(plain, path)
    assert lines == [
        f"left out 2 of 8 rows of {path}:train: each has no label; the first is {path}:train[1] has no label"
    ]
    assert data.labels == [0, 1, 0, 0, 1, 1]
    problems = [one["data_samples"]["unreadable"] for one in data]
    assert problems[:3] == ["", "", ""]
    assert problems[3].startswith(f"{path}:train[5] (its row names '/nowhere/x.png', and there is no such file)")
    assert problems[4] == f"{path}:train[6] (its row has no image)"
    assert problems[5].startswith(f"{path}:train[7] (")
    with pytest.raises(DataError, match=r"train\[1\] has no label; unreadable='skip' leaves such rows out"):
        HuggingFaceImages(plain, path, unreadable="raise")
    lost = save(tmp_path / "y", typed({"image": rows[:3], "label": [-1, -1, 0]}, **FEATURES))
    with pytest.raises(DataError, match="2 of 3 rows cannot be used, which is more than half"):
        HuggingFaceImages(plain, lost)


def test_no_dataset(images, tmp_path, monkeypatch):
    _, splits = images
    splits.save_to_disk(tmp_path / "disk")
    datasets.Dataset.from_dict({"a": [1]}, split="val").save_to_disk(tmp_path / "single")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code.py").write_text("raise SystemExit('it has run')")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for path, settings, words in (
        ("disk", {"split": "test"}, "cannot load the dataset disk: it has the splits 'train', 'val', and not 'test'"),
        ("single", {}, "cannot load the dataset single: it is the split 'val', and not 'train'"),
        ("code", {}, "scripts are no longer supported"),
        ("empty", {}, "cannot load the dataset empty: .*empty"),
        ("disk/gone", {}, "there is no folder disk/gone; it is not looked for on the Hub, since disk is a folder here"),
        ("./gone", {}, "there is no folder ./gone, and it is no name"),
        ("/a/b", {}, "there is no folder /a/b, and it is no name of a dataset on the Hub"),
        ("a/b/c", {}, "there is no folder a/b/c, and it is no name"),
        ("somebody/something", {}, "cannot load the dataset somebody/something: "),
    ):
        with pytest.raises(DataError, match=words) as error:
            load_table(path, **settings)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="no subset and no revision"):
        load_table("disk", revision="main")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MissingPackageError, match=r'needs datasets, .* run `pip install "dist/FILE.whl\[huggingface\]"`'
    ):
        load_table("disk")


def test_parts_of_saved_tables(tmp_path):
    values = list(range(8))
    table = datasets.Dataset.from_dict({"a": values})
    table.save_to_disk(tmp_path / "nameless")
    datasets.Dataset.from_dict({"a": values}, split="val").save_to_disk(tmp_path / "named")
    datasets.DatasetDict(train=table, test=table.select([7, 5])).save_to_disk(tmp_path / "both")
    table.select([]).save_to_disk(tmp_path / "nothing")
    for folder, split, expected in (
        ("nameless", "train", values), ("nameless", "train[:50%]", values[:4]), ("named", "val[-3:]", [5, 6, 7]),
        ("both", "train[6:]+test[:1]", [6, 7, 7]), ("both", "test", [7, 5]),
    ):  # fmt: skip
        found = load_table(str(tmp_path / folder), split)
        assert [row.value["a"] for row in table_rows(found)] == expected
    for folder, split, words in (
        ("nameless", "test", "it is the split 'train', and not 'test'"),
        ("nameless", "test[:2]", "it is the split 'train', and not 'test'"),
        ("nameless", "train[2:x]", "train"),
        ("nameless", "train[:0]", "has no rows"),
        ("named", "train[:2]", "it is the split 'val', and not 'train'"),
        ("nothing", "train", "has no rows"),
    ):
        with pytest.raises(DataError, match=f"cannot load the dataset .*{words}"):
            load_table(str(tmp_path / folder), split)


def test_damaged_files_do_not_end_the_process(tmp_path):
    """Offsets of texts that lead out of a file of Arrow are found when it is loaded."""
    path = tmp_path / "x"
    save(path, typed({"image": [encoded(n) for n in range(50)], "label": ["a" * n for n in range(50)]},
                     image=datasets.Image(), label=datasets.Value("string")))  # fmt: skip
    [file] = path.glob("*.arrow")
    content = file.read_bytes()
    offsets = np.cumsum([0, *range(50)]).astype("<i4").tobytes()
    assert content.count(offsets) == 1
    file.write_bytes(content.replace(offsets, offsets[:40] + b"\xff\xff\xff\x7f" * 4 + offsets[56:]))
    with pytest.raises(DataError, match="cannot load the dataset"):
        HuggingFaceImages(plain, str(path))
    draw = np.random.default_rng(0)
    for _ in range(20):
        broken = bytearray(content)
        for place in draw.integers(0, len(content), 20):
            broken[place] = draw.integers(256)
        file.write_bytes(broken)
        with suppress(DataError, ConfigError):  # much of the file is pixels, and some bytes mean nothing
            list(HuggingFaceImages(plain, str(path)))


def test_rows_of_tables(tmp_path):
    rows = [{"text": f"t{n}", "n": n, "messages": [{"role": "user", "content": str(n)}]} for n in range(600)]
    found = list(table_rows(load_table(save(tmp_path / "x", datasets.Dataset.from_list(rows)))))
    assert [row.number for row in found] == list(range(600))
    assert [row.value for row in found] == rows
