"""TensorBoard and Weights & Biases show the same. The tests read both back from their files."""

import os

import pytest
from PIL import Image
from runs import MAMBATREE, call, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_files import read_run

from ssm_train.runtime.trackers.backends import markdown

SHOWN = ("visualizer.tensorboard=True", "visualizer.wandb=True", "default_hooks.pictures.count=2")
SCALARS = {"train/loss", "train/lr", "train/grad_norm", "val/top1"}
PICTURES = {"prediction_0", "prediction_1", "scans_0", "scans_1"}


def train_tracked(folder, *options, resume=False):
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
    name, *tiny = MAMBATREE
    train(name, folder, *tiny, *SHOWN, *options, resume=resume)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folders of a training of one epoch and of the training that resumed it for a second epoch."""
    folder, places = tmp_path_factory.mktemp("tracked"), []
    for name, epochs in (("first", 1), ("second", 2)):
        options = (f"train_cfg.max_epochs={epochs}", f"experiment_name={name}")
        call(train_tracked, folder / f"{name}.log", folder / "run", *options, resume=name == "second")
        places += [p for p in (folder / "run").glob("*/vis_data") if p not in places]
    return places


def tensorboard(place):
    """Return the scalars as ``{name: [(step, value)]}`` and the pictures as ``{name: [step]}``."""
    events = EventAccumulator(str(place)).Reload()
    scalars = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    return scalars, {name: [e.step for e in events.Images(name)] for name in events.Tags()["images"]}


def wandb(place):
    return read_run(next(place.glob("wandb/offline-run-*/run-*.wandb")))


def test_same_scalars(runs):
    scalars, _ = tensorboard(runs[0])
    _, _, history, axes = wandb(runs[0])
    assert set(scalars) >= SCALARS
    assert axes["*"] == "iteration"
    for name, points in scalars.items():
        assert [step for step, _ in history[name]] == [step for step, _ in points]
        assert [value for _, value in history[name]] == pytest.approx([value for _, value in points])
    assert [step for step, _ in scalars["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in scalars["val/top1"]] == [6]


def test_same_pictures(runs):
    _, pictures = tensorboard(runs[0])
    _, _, history, _ = wandb(runs[0])
    assert set(pictures) == PICTURES
    for name, steps in pictures.items():
        assert [step for step, _ in history[f"{name}/path"]] == steps == [6]
        media = next(runs[0].glob("wandb/offline-run-*/files")) / history[f"{name}/path"][0][1]
        with Image.open(media) as shown, Image.open(runs[0] / "vis_image" / f"{name}_6.png") as local:
            assert shown.tobytes() == local.tobytes()
            # The image has two trees beside it. The maps of the other blocks have only one or two rows.
            assert 2 < local.width / local.height < 3 if name.startswith("scans") else local.size == (256, 256)


def test_the_config_and_no_code(runs):
    _, config, _, _ = wandb(runs[0])
    assert config["model"]["backbone"]["dims"] == [8, 16, 16, 16]
    assert config["optim_wrapper"]["optimizer"] == {
        "type": "AdamW", "lr": 2e-3, "betas": [0.9, 0.999], "weight_decay": 0.05,
    }  # fmt: skip
    text = EventAccumulator(str(runs[0])).Reload().Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    assert b"type='tree_ssm.MambaTreeV'" in text
    assert not list(runs[0].glob("wandb/offline-run-*/files/**/*.py"))


def test_a_resumed_training_goes_on_in_its_run(runs):
    first, second = (wandb(place) for place in runs)
    assert first[0] == second[0] != ""
    assert [step for step, _ in second[2]["train/loss"]] == [7, 8, 9, 10, 11, 12]


def test_a_table_of_texts_keeps_its_lines():
    table = markdown(("a", "b"), [("1 | 2", "<b>\nc & d")])
    assert table == "| a | b |\n| --- | --- |\n| 1 \\| 2 | &lt;b><br>c &amp; d |\n"
