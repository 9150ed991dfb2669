"""Tests of the checkpoint files of runs. A file is whole or absent, holds plain data, and is found in its folder."""

import os

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger

from ssm_core import weights
from ssm_train.runtime import checkpoints as checkpoint
from ssm_train.runtime import resumed
from ssm_train.runtime.files import remove_leftovers, write_atomically, write_text_atomically
from ssm_train.runtime.resuming import find_newest, newest_good


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text_atomically(path, "old")

    def fail(file):
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_are_removed(tmp_path):
    (tmp_path / ".iter_1.pth.123.tmp").touch()
    (tmp_path / "iter_1.pth").touch()
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["iter_1.pth"]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "iter_3.pth"
    checkpoint.save({"state_dict": {"w": torch.arange(1000.0)}}, path)
    return path


def test_a_saved_file_is_whole(saved):
    assert weights.damage(saved) is None
    assert torch.equal(weights.read_file(saved)["state_dict"]["w"], torch.arange(1000.0))


def write_state(path, iteration, run=None):
    state = {"state_dict": {"w": torch.ones(3)}, "optimizer": {}, "message_hub": {}}
    checkpoint.save({**state, "meta": {"epoch": 0, "iter": iteration, **({"run": run} if run else {})}}, path)


def test_the_newest_state_has_the_most_iterations(tmp_path, saved):
    logger = MMLogger.get_instance("newest_good")
    assert newest_good(tmp_path, logger) is None, "it has weights only"
    for name, iteration in (("iter_5.pth", 5), ("epoch_2.pth", 8), ("state_7.pth", 7)):
        write_state(tmp_path / name, iteration)
    os.utime(tmp_path / "epoch_2.pth", (0, 0))
    # The folder was moved, and the file that was written last is damaged.
    (tmp_path / "iter_9.pth").write_bytes(b"PK")
    (tmp_path / checkpoint.POINTER).write_text("/elsewhere/iter_9.pth")
    assert newest_good(tmp_path, logger).name == "epoch_2.pth"
    (tmp_path / "epoch_2.pth").write_bytes((tmp_path / "epoch_2.pth").read_bytes()[:-1])
    assert newest_good(tmp_path, logger).name == "state_7.pth"


def test_without_a_marker_the_run_that_wrote_last_comes_first(tmp_path):
    for name, iteration, run in (("iter_2.pth", 2, "ours"), ("iter_4.pth", 4, "ours"), ("iter_9.pth", 9, "theirs")):
        write_state(tmp_path / name, iteration, run)
    logger = MMLogger.get_instance("newest_good")
    assert newest_good(tmp_path, logger).name == "iter_9.pth"
    (tmp_path / checkpoint.POINTER).write_text("iter_2.pth")
    assert newest_good(tmp_path, logger).name == "iter_4.pth"


def test_only_the_newest_is_read_fully(tmp_path):
    for iteration in range(2, 20, 2):
        write_state(tmp_path / f"iter_{iteration}.pth", iteration)
    read = []
    assert find_newest(tmp_path, read.append).path.name == "iter_18.pth"
    assert [path.name for path in read] == ["iter_18.pth"]


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"\0", b"a" * 10**6, b".", b"mine.pth", b"\n\n"])
def test_a_damaged_pointer_points_nowhere(tmp_path, text):
    (tmp_path / checkpoint.POINTER).write_bytes(text)
    assert checkpoint.pointed(tmp_path) is None


def test_plain():
    value = {"a": np.float64(1.5), "b": (np.array([1, 2]), "x", None), "c": object(), "d": [torch.ones(1), print]}
    assert checkpoint.plain(value) == {"a": 1.5, "b": ([1, 2], "x", None), "d": [torch.ones(1)]}


def test_message_hub_round_trip(tmp_path):
    hub = MessageHub.get_instance("round_trip")
    for value in range(1500):
        hub.update_scalar("train/loss", value)
    hub.update_info("best_score", np.float32(0.5))
    checkpoint.save(checkpoint.pack_message_hub(hub.state_dict()), tmp_path / "hub")
    other = MessageHub.get_instance("round_trip_2")
    other.load_state_dict(resumed.message_hub(weights.read_file(tmp_path / "hub"), tmp_path))
    assert other.get_info("best_score") == 0.5
    assert other.get_scalar("train/loss").mean(20) == hub.get_scalar("train/loss").mean(20)
    assert len(other.get_scalar("train/loss").data[0]) < 1500


def test_a_detached_state_shares_no_memory():
    state = {"a": [torch.zeros(1)], "b": 2}
    shared, copied = checkpoint.on_cpu(state), checkpoint.detached(state)
    state["a"][0] += 1
    assert shared["a"][0] == 1
    assert copied["a"][0] == 0


def test_meta_of_a_run():
    model = {"type": "ssm_train.ImageClassifier", "backbone": {"type": "timm"}, "data_preprocessor": None}
    transform = {"type": "TestTransform", "size": 32, "mean": [0.3], "std": [0.3]}
    meta = {"model": model, "dataset_meta": {"classes": ["a", "b"]}, "test_transform": transform, "epoch": 3}
    assert checkpoint.meta_of({"meta": meta}) == meta


@pytest.mark.parametrize("meta", [None, "meta", [1]])
def test_meta_of_another_type(meta):
    assert checkpoint.meta_of({"meta": meta}) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "QuadMamba"),
        ("model", {"backbone": "quadtree_ssm.QuadMamba"}),
        ("model", {"backbone": None}),
        ("model", {"data_preprocessor": "x"}),
        ("dataset_meta", ["a", "b"]),
        ("dataset_meta", {"classes": 5}),
        ("dataset_meta", {"classes": "ab"}),
        ("test_transform", "x"),
        ("test_transform", {"size": "big"}),
        ("test_transform", {"size": -5}),
        ("test_transform", {"mean": "abc", "std": "abc"}),
        ("test_transform", {"mean": [0.3, 0.3], "std": [0.3]}),
    ],
)
def test_entries_of_meta_of_another_type(key, value):
    assert checkpoint.meta_of({"meta": {key: value, "epoch": 3}}) == {"epoch": 3}
