"""Tests of the checkpoint files of runs. A file is whole or absent, holds plain data, and is found in its folder."""

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger

from ssm_core import weights
from ssm_train.runtime import checkpoints as checkpoint
from ssm_train.runtime import resumed
from ssm_train.runtime.files import remove_leftovers, write_atomically, write_text_atomically


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


def test_newest_good(tmp_path, saved):
    logger = MMLogger.get_instance("newest_good")
    assert checkpoint.newest_good(tmp_path, logger) == saved
    for name in ("iter_5.pth", "epoch_2.pth", "best_top1_epoch_1.pth"):
        (tmp_path / name).write_bytes(b"PK")
    # The folder was moved. The pointer's path no longer exists, but a file of that name is in the folder.
    (tmp_path / checkpoint.POINTER).write_text("/elsewhere/iter_5.pth")
    assert checkpoint.newest_good(tmp_path, logger) == saved
    saved.unlink()
    assert checkpoint.newest_good(tmp_path, logger) is None


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


def test_on_cpu_copies_on_request():
    state = {"a": [torch.zeros(1)], "b": 2}
    shared, copied = checkpoint.on_cpu(state), checkpoint.on_cpu(state, copy=True)
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
