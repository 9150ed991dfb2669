"""Shards and tables train as the image folder that they were made from, and are resumed as exactly."""

import json
import signal
from itertools import chain

import limited
import pytest
import runs
from command_line import CONFIGS, error_of, run
from PIL import Image

from ssm_train.data.datasets import Digits

NAME, *NETWORK = ("resnet/resnet18_digits.py", "model.backbone.name=test_efficientnet_gn")
TRANSFORM = "'transform': {'type': 'TrainTransform', 'size': 32, 'hflip': 0.5, 'mean': (0.3,), 'std': (0.4,)}"
# Two epochs of six iterations, and a state after every second one.
OPTIONS = (
    *NETWORK,
    "val_dataloader.num_batch_per_epoch=None",
    "default_hooks.checkpoint.by_epoch=False",
    "default_hooks.checkpoint.interval=2",
    "default_hooks.checkpoint.max_keep_ckpts=9",
)
WORKERS = ("train_dataloader.num_workers=2", "val_dataloader.num_workers=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write five digits of a class for training and two for validation in all three forms; one is broken in each."""
    root = tmp_path_factory.mktemp("data")
    for split, source, count in (("train", "train", 5), ("val", "test", 2)):
        digits = Digits(lambda image: image, source)
        of_class = [[n for n, label in enumerate(digits.labels) if label == own][:count] for own in range(10)]
        for index in chain.from_iterable(of_class):
            path = root / "digits" / split / digits.classes[digits.labels[index]] / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            digits.load(index).save(path)
            if (split, index) == ("train", of_class[3][1]):
                path.write_bytes(path.read_bytes()[:100])
    assert run("prepare_data", "shards", "--root", root, "--from", root / "digits", "--per-shard", 20) == 0
    assert run("prepare_data", "huggingface", "--root", root, "--from", root / "digits") == 0
    return root


def loaders(data, form):
    """The options that read one of the forms."""
    dataset = {
        "folder": lambda split: f"'type': 'ImageFolder', 'root': '{data}/digits', 'split': '{split}'",
        "shards": lambda split: (
            f"'type': 'WebDatasetImages', 'label': 'txt', 'shards': '{data}/digits-shards/{split}-"
            f"{'{000000..000002}' if split == 'train' else '000000'}.tar'"
        ),
        "table": lambda split: f"'type': 'HuggingFaceImages', 'path': '{data}/digits-huggingface', 'split': '{split}'",
    }[form]
    return [
        f"{loader}_dataloader.dataset={{{dataset(loader)}, 'mode': 'L', {TRANSFORM}, '_delete_': True}}"
        for loader in ("train", "val")
    ]


def assert_same(folder, expected, since=0):
    """Compare the ends of two runs, and their training curves from the iteration after ``since`` on."""
    ours, theirs = (runs.last_state(place)["state_dict"] for place in (folder, expected))
    assert runs.differing(ours, theirs) == []
    ours, theirs = (json.loads((place / "curves.json").read_text()) for place in (folder, expected))
    assert ours["train"][-(12 - since) :] == theirs["train"][since:]
    assert len(theirs["train"]) == 12
    assert ours["val"] == theirs["val"]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The run on the image folder."""
    folder = tmp_path_factory.mktemp("whole")
    runs.call(runs.train, folder / "log", NAME, folder / "run", *OPTIONS, *loaders(data, "folder"))
    assert "1 training images could not be used" in (folder / "log").read_text()
    return folder / "run"


def test_killed_in_mid_epoch_and_resumed_as_the_image_folder(data, whole, tmp_path):
    """The first run has no worker and is killed after iteration 3, the second has two and goes on from iteration 2."""
    options, place = [*OPTIONS, *loaders(data, "shards")], tmp_path / "run"
    runs.call(runs.train_and_die, tmp_path / "1", NAME, place, 3, *options, expected=-signal.SIGKILL)
    assert runs.last_state(place)["meta"]["iter"] == 2
    runs.call(runs.train, tmp_path / "2", NAME, place, *options, *WORKERS, resume=True)
    assert_same(place, whole)
    assert "1 training images could not be used" in (tmp_path / "2").read_text()


def test_a_table_goes_on_for_the_image_folder(data, whole, tmp_path):
    options, place = [*OPTIONS, *loaders(data, "table"), *WORKERS], tmp_path / "run"
    runs.call(runs.train, tmp_path / "1", NAME, place, *options, resume=whole / "iter_2.pth")
    assert_same(place, whole, since=2)


@pytest.fixture(scope="module")
def whole_of_two(data, tmp_path_factory):
    """The run of two processes on the image folder."""
    return train_two(tmp_path_factory.mktemp("two"), *loaders(data, "folder"))


def train_two(folder, *options, resume=False):
    port, logs = runs.free_port(), [folder / f"log{rank}" for rank in range(2)]
    options = [*OPTIONS, *options, "train_dataloader.batch_size=4"]
    processes = [
        runs.start(runs.train_distributed, log, NAME, folder / "run", rank, 2, port, *options, resume=resume)
        for rank, log in enumerate(logs)
    ]
    for process, log in zip(processes, logs, strict=True):
        runs.finish(process, log)
    return folder / "run"


@pytest.mark.parametrize("form", ["shards", "table"])
def test_two_processes_go_on_for_the_image_folder(form, data, whole_of_two, tmp_path):
    assert_same(train_two(tmp_path, *loaders(data, form), resume=whole_of_two / "iter_2.pth"), whole_of_two, since=2)


def test_packing_needs_an_image_folder(tmp_path, capsys):
    for kind in ("shards", "huggingface"):
        assert "with --from" in error_of(capsys, "prepare_data", kind, "--root", tmp_path)
        line = error_of(capsys, "prepare_data", kind, "--root", tmp_path, "--from", tmp_path / "gone")
        assert "there is no image folder" in line
        line = error_of(capsys, "prepare_data", kind, "--root", tmp_path / "x", "--from", tmp_path)
        assert "has no folder for a split" in line
    assert not list(tmp_path.iterdir())


def test_digits_as_an_image_folder(tmp_path):
    assert run("prepare_data", "digits", "--images", "--root", tmp_path) == 0
    data = Digits(lambda image: image, "test")
    files = sorted((tmp_path / "digits" / "test").rglob("*.png"), key=lambda path: path.name)
    assert [(path.parent.name, Image.open(path).tobytes()) for path in files] == [
        (data.classes[label], data.load(index).tobytes()) for index, label in enumerate(data.labels)
    ]


def test_a_file_larger_than_the_memory(lm_folder, tmp_path):
    """The limit is less than half of the file. A run that goes on after the first epoch ends as the whole one."""
    limited.write_rows(tmp_path / "rows.jsonl", 2.2 * limited.ROOM)
    config = CONFIGS / "mambatree_l" / "wiki" / "mambatree-l-4m_alpaca-demo.py"
    quiet = ["visualizer.tensorboard=False", "default_hooks.curves.plot=False", "log_level=ERROR",
             "default_hooks.samples.count=0", f"model.backbone.path={lm_folder / 'pretrained'}",
             "optim_wrapper.dtype=float32", "param_scheduler.0.end=2",
             "train_dataloader.num_batch_per_epoch=3", "default_hooks.checkpoint.max_keep_ckpts=9"]  # fmt: skip
    for loader in ("train", "val"):
        quiet += [f"{loader}_dataloader.{line}" for line in (
            "num_workers=0", "batch_size=4", f"dataset.tokenizer.path={lm_folder / 'pretrained'}",
            f"dataset.path={tmp_path / 'rows.jsonl' if loader == 'train' else lm_folder / 'rows.json'}",
        )]  # fmt: skip
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    for place, resume in ((whole, False), (rest, whole / "epoch_1.pth")):
        options = [*quiet, "train_cfg.max_epochs=2", f"experiment_name={place.name}"]
        runs.call(limited.train_within, tmp_path / "log", config, options, place, resume=resume)
    ends = [runs.last_state(place) for place in (whole, rest)]
    assert [end["meta"]["iter"] for end in ends] == [6, 6]
    assert runs.differing(*(end["state_dict"] for end in ends)) == []
