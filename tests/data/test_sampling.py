"""Tests of what chooses images: weighted sampling, mmengine's wrappers, lists of images and folds."""

import csv
import io
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import DATA_SAMPLERS, DATASETS, DefaultScope
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, WeightedRandomSampler

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.classes import class_counts, number_alike
from ssm_train.data.datasets import ImageDataset, ImageFolder, ImageList, collate_images
from ssm_train.data.datasets.folds import in_fold
from ssm_train.data.datasets.label_values import number_labels
from ssm_train.data.guarded import guarded
from ssm_train.data.samplers import WeightedSampler
from ssm_train.runtime.reproducibility import make_reproducible
from ssm_train.runtime.runner import Runner


class Noisy(ImageDataset):
    """Images of which only the augmentation has values."""

    def __init__(self, labels, classes=("a", "b", "c")):
        super().__init__(list(labels), list(classes), lambda image: torch.rand(1))

    def load(self, index):
        return Image.new("L", (2, 2))

    def name(self, index):
        return f"{index}.png"


LABELS = [0] * 60 + [1] * 30 + [2] * 10


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("ssm_train"):
        yield


def shares(sampler, labels=LABELS):
    counts = Counter(labels[index] for index in sampler)
    return [counts[label] / len(sampler) for label in range(3)]


@pytest.mark.parametrize(("weights", "expected"), [(None, [1 / 3] * 3), ([1, 0, 3], [0.25, 0, 0.75])])
def test_classes_are_drawn_in_their_proportions(weights, expected):
    sampler = WeightedSampler(Noisy(LABELS), weights, num_samples=30_000, seed=1)
    # Four standard deviations of the share of a class.
    assert shares(sampler) == pytest.approx(expected, abs=4 * 0.5 / 30_000**0.5)


def test_every_epoch_and_seed_draws_anew():
    sampler = DATA_SAMPLERS.build(dict(type="WeightedSampler", dataset=Noisy(LABELS), seed=1))
    first = list(sampler)
    assert len(first) == len(LABELS)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(WeightedSampler(Noisy(LABELS), seed=2)) != first


def test_processes_share_the_images_of_one(monkeypatch):
    whole = list(WeightedSampler(Noisy(LABELS), num_samples=41, seed=1))
    parts = []
    for rank in range(2):
        monkeypatch.setattr("ssm_train.data.samplers.get_dist_info", lambda rank=rank: (rank, 2))
        parts.append(list(WeightedSampler(Noisy(LABELS), num_samples=41, seed=1)))
    assert [len(part) for part in parts] == [21, 21]
    dealt = [index for pair in zip(*parts, strict=True) for index in pair]
    assert dealt[:41] == whole
    # An image that both processes draw is augmented in two ways.
    keys = [(int(index), index.epoch) for part in parts for index in part]
    assert len(set(keys)) == 42 > len({index for index, _ in keys})


def test_a_repeated_image_is_augmented_anew():
    data = Noisy([0, 1, 2])
    sampler = WeightedSampler(data, num_samples=12, seed=1)
    batches = BatchSampler(sampler, 4, drop_last=False)
    loader = make_reproducible(DataLoader(data, batch_sampler=batches, collate_fn=collate_images), seed=0)
    values = [float(value) for batch in loader for value in batch["inputs"]]
    assert len(set(values)) == 12
    # A pass that starts within the epoch gives the rest of it.
    loader.batch_sampler.skip(2)
    assert [float(value) for batch in loader for value in batch["inputs"]] == values[8:]


@pytest.mark.parametrize(
    "weights", [[1, 2], [1, 2, -1], [0, 0, 0], [np.inf, 1, 1], [1, np.nan, 1], [1e308] * 3, [10**400, 1, 1], "abc"]
)
def test_wrong_weights(weights):
    with pytest.raises(ConfigError, match="WeightedSampler"):
        WeightedSampler(Noisy(LABELS), weights)


@pytest.mark.parametrize("count", [2.5, 0, -1, "8", True])
def test_wrong_numbers_of_images(count):
    with pytest.raises(ConfigError, match="num_samples is a whole number of 1 or more, not"):
        WeightedSampler(Noisy(LABELS), num_samples=count)


@pytest.mark.parametrize("kind", [WeightedRandomSampler, "torch.utils.data.WeightedRandomSampler"])
def test_samplers_of_torch_are_refused_with_what_to_take(kind):
    loader = dict(dataset=Noisy(LABELS), batch_size=2, sampler=dict(type=kind, weights=[1.0] * 100, num_samples=8))
    with pytest.raises(ConfigError, match=r"WeightedRandomSampler is a sampler of torch, .* or WeightedSampler"):
        Runner.build_dataloader(loader)
    loader["sampler"] = dict(type="WeightedSampler", num_samples=8)
    loader["collate_fn"] = dict(type="ssm_train.collate_images")
    assert len(Runner.build_dataloader(loader)) == 4


def test_a_loader_has_the_dataset_that_was_built_and_no_copy():
    """A copy of a million samples would take seconds, and their memory twice."""
    dataset = Noisy(LABELS)
    sampler, collate = dict(type="DefaultSampler", shuffle=False), dict(type="ssm_train.collate_images")
    loader = Runner.build_dataloader(dict(dataset=dataset, batch_size=2, sampler=sampler, collate_fn=collate))
    assert loader.dataset.dataset is dataset
    assert loader.batch_sampler.sampler.dataset is dataset


def test_mmdets_instances_and_others():
    class Instances:
        metainfo = {"classes": ("a", "b")}  # noqa: RUF012
        rows = ([0, 0, 1], [], [1])

        def __len__(self):
            return 3

        def get_data_info(self, index):
            return {"instances": [{"bbox_label": label, "ignore_flag": 0} for label in self.rows[index]]}

    assert class_counts(Instances()) == [1, 2]
    with pytest.raises(ConfigError, match="list does not say which classes an image has"):
        class_counts([1])


# --- mmengine's wrappers


@pytest.fixture
def folder(tmp_path):
    for name, count in (("cat", 6), ("dog", 2)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "train" / name / f"{number}.png")
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"cut off")
    return tmp_path


def build(folder, kind, **options):
    inner = dict(type="ImageFolder", root=str(folder), transform=dict(type="TestTransform", size=8))
    own = dict(datasets=[inner, inner]) if kind == "ConcatDataset" else dict(dataset=inner)
    return guarded(DATASETS.build(dict(type=kind, **own, **options)))


@pytest.mark.parametrize(
    ("kind", "options", "counts"),
    [
        ("RepeatDataset", dict(times=3), [18, 6]),
        ("ConcatDataset", {}, [12, 4]),
        # The dogs are a quarter. To be half, an image of them comes up sqrt(0.5 / 0.25) times, rounded up.
        ("ClassBalancedDataset", dict(oversample_thr=0.5), [6, 4]),
    ],
)
def test_wrapped_images(folder, kind, options, counts):
    data = build(folder, kind, **options)
    assert class_counts(data) == counts
    assert len(data) == sum(counts)
    assert data.metainfo["classes"] == ["cat", "dog"]
    samples = [data[index]["data_samples"] for index in range(len(data))]
    assert [sample["index"] for sample in samples] == list(range(len(data)))
    assert ["cat" if sample["label"] == 0 else "dog" for sample in samples] == [
        data.name(index).split("/")[-2] for index in range(len(data))
    ]
    assert "1.png" in samples[1]["unreadable"], "the inner dataset replaces what it cannot read"


# --- Lists


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_list_of_images(tmp_path, suffix):
    rows = [("a.png", ["dog", "cat, small"]), ("b.png", []), ("c.png", ["dog"])]
    path = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file)
            writer.writerows([("labels", "image"), *((";".join(labels), image) for image, labels in rows)])
    else:
        path.write_text(json.dumps([dict(image=image, labels=labels) for image, labels in rows]))
    for image, _ in rows:
        Image.new("RGB", (8, 8)).save(tmp_path / image)
    data = ImageList(dict(type="TestTransform", size=8), str(path))
    assert data.metainfo["classes"] == ["cat, small", "dog"]
    batch = collate_images([data[index] for index in range(3)])
    assert batch["data_samples"]["label"].tolist() == [[1, 1], [0, 0], [0, 1]]
    assert class_counts(data) == [1, 2]
    assert data.name(2) == str(tmp_path / "c.png")
    named = ImageList(dict(type="TestTransform", size=8), str(path), classes=["x", "dog", "cat, small"])
    assert named.labels == [[1, 2], [], [1]]
    with pytest.raises(DataError, match=r"row 1 of .* has 2 classes and multi_label is False"):
        ImageList(dict(type="TestTransform", size=8), str(path), multi_label=False)
    with pytest.raises(
        DataError, match=r"row 1 of .* has the class 'dog', which is none of the classes cat, small, dogs"
    ):
        ImageList(dict(type="TestTransform", size=8), str(path), classes=["cat, small", "dogs"])
    with pytest.raises(ConfigError, match="classes name dog twice"):
        ImageList(dict(type="TestTransform", size=8), str(path), classes=["dog", "cat, small", "dog"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "picture,labels\na.png,cat\n"), ("x.csv", "image,labels\na.png\n"), ("x.csv", ""), ("x.json", "[]"),
        ("x.json", "{"), ("x.json", '{"image": "a"}'), ("x.json", '[{"image": "a", "labels": [1]}]'), ("x.json", "[1]"),
        ("x.json", "[" * 100_000), ("x.csv", "\0"),
    ],
)  # fmt: skip
def test_damaged_lists(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        ImageList(lambda image: image, str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"is a file \.csv or \.json"):
        ImageList(lambda image: image, str(tmp_path / "x.txt"))


def test_titles_of_lists(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("image, labels \na.png, dog; out\n")
    assert ImageList(lambda image: image, str(path)).metainfo["classes"] == ["dog", "out"]
    for titles in ("file,tags", "image;labels", "image,label"):
        path.write_text(f"{titles}\na.png,dog\n")
        with pytest.raises(DataError, match=f"x.csv is '{titles}', and has to name the columns image and labels, with"):
            ImageList(lambda image: image, str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,labels\n0.png,dog,outdoors\n1.png,cat\n", r"line 2 of .* has 3 fields for 2 columns .* ; between the"),
        ("image,labels\n\n0.png,dog\na,b.png,cat\n", r"line 4 of .*: put what has a comma in it between double quotes"),
        ('image,labels\n0.png,"a\nb"\n1.png,a,b\n', "line 4 of "),
        ('image,labels\n0.png,dog\n1.png,"cat\n2.png,dog\n', r"from line 3 of .*: are its quotes in pairs"),
        ("image,labels,labels\n0.png,dog,cat\n", "names the column labels twice"),
        ("image,labels\n../x.png,dog\n", r"row 1 of .* names '../x.png', which is no .*: give root="),
        ("image,labels\n0.png,dog\n/etc/x.png,dog\n", "row 2 of .* names '/etc/x.png'"),
        ("image,labels\na/../../x.png,dog\n", "names 'a/../../x.png'"),
    ],
)  # fmt: skip
def test_rows_that_would_be_read_as_others(tmp_path, text, said):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        ImageList(lambda image: image, str(tmp_path / "x.csv"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_cells_of_csv_are_as_they_are_written(tmp_path, end):
    rows = [["image", "labels", "note"], ["a, b.png", "cat\nsmall;dog", "x"], ["c\u2028\x0bd.png", 'the "dog"', ""]]
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    (tmp_path / "x.csv").write_bytes((file.getvalue() + f"e.png,dog,,,{end}").encode("utf-8-sig"))
    data = ImageList(lambda image: image, str(tmp_path / "x.csv"))
    assert [data.name(place) for place in range(3)] == [
        str(tmp_path / name) for name in ("a, b.png", "c\u2028\x0bd.png", "e.png")
    ]
    assert data.classes == ["cat\nsmall", "dog", 'the "dog"']
    assert data.labels == [[0, 1], [2], [1]]


def test_classes_are_a_list_of_names(tmp_path):
    (tmp_path / "x.csv").write_text("image,labels\na.png,c\n")
    for classes in ("cat", [0, 1], {"cat": 0}, 3):
        with pytest.raises(ConfigError, match="a dataset's classes are a list of names between quotes, such as"):
            ImageList(lambda image: image, str(tmp_path / "x.csv"), classes=classes)
        with pytest.raises(ConfigError, match="a dataset's classes are a list of names"):
            number_labels(["c", "a"], classes, False, "x")


def test_classes_of_any_data_are_named_once():
    once, twice = (SimpleNamespace(metainfo=dict(classes=names)) for names in (("cat", "dog"), ("cat", "cat")))
    number_alike(once, None, "x")
    for data in (twice, SimpleNamespace(datasets=[once, twice]), SimpleNamespace(dataset=twice)):
        with pytest.raises(ConfigError, match="a dataset's classes name cat twice"):
            number_alike(data, None, "x")


# --- Folds


def test_folds():
    labels = [[label] for label in LABELS]
    held_out = [in_fold(labels, dict(of=4, number=number, part="held_out", seed=3)) for number in range(4)]
    assert sorted(index for part in held_out for index in part) == list(range(100))
    for number, part in enumerate(held_out):
        assert in_fold(labels, dict(of=4, number=number, seed=3)) == sorted(set(range(100)) - set(part))
        counts = np.bincount([labels[index][0] for index in part], minlength=3)
        assert abs(counts - [15, 7.5, 2.5]).max() <= 1
    assert in_fold(labels, dict(of=4, part="held_out", seed=3)) == held_out[0]
    assert in_fold(labels, dict(of=4, part="held_out", seed=4)) != held_out[0]
    assert in_fold(labels, None) == list(range(100))


LAST = dict(of=200, part="held_out", number=199)


@pytest.mark.parametrize("fold", [dict(of=1), dict(number=5), dict(part="val"), dict(parts="train"), LAST])
def test_wrong_folds(fold):
    with pytest.raises(ConfigError, match="fold"):
        in_fold([[0]] * 100, fold)


@pytest.mark.parametrize(
    ("fold", "said"),
    [
        (dict(of=2.5), "of=2.5"), (dict(of=True), "of=True"), (dict(of="5"), "of='5'"),
        (dict(number=1.0), "number=1.0"),
        (dict(seed=-1), "seed=-1"), (dict(seed=None), "seed=None"),
    ],
)  # fmt: skip
def test_numbers_of_folds_are_whole(fold, said):
    with pytest.raises(ConfigError, match=f"a dataset's fold takes whole numbers from 0 on, not {said}"):
        in_fold([[0]] * 100, fold)


def test_a_link_to_itself_is_no_class(folder):
    (folder / "train" / "loop").symlink_to(folder / "train" / "loop")
    with pytest.raises(DataError, match=r"cannot list the classes: \S+train/loop: "):
        ImageFolder(None, str(folder))


def test_a_fold_of_a_folder(folder):
    parts = [ImageFolder(None, str(folder), fold=dict(of=2, part=part)) for part in ("train", "held_out")]
    assert [Counter(part.labels) for part in parts] == [{0: 3, 1: 1}] * 2
    assert not set(parts[0].paths) & set(parts[1].paths)
    for part in parts:
        assert [path.split("/")[-2] for path in part.paths] == [part.classes[label] for label in part.labels]
