"""The table of an iteration adds up, and its last sentence names what a training was made to wait for."""

import re
import time
from pathlib import Path

import pytest
import runs
from mmengine.hooks import Hook

from ssm_train.data.collate import collate_images
from ssm_train.runtime.iteration_times import IterationTimes

LONG = ("train_cfg.max_epochs=6", "train_cfg.val_interval=6", "default_hooks.checkpoint.interval=-1")


def times(**seconds):
    parts = dict(whole=0.1, loader=0.0, step=0.09, waiting=0.0, between=0.0, device=None)
    return IterationTimes(10, **{**parts, **seconds}, cores=1.0, threads=2, loaders=4)


@pytest.mark.parametrize(
    ("measured", "beginning"),
    [
        (times(), "The network bounds this training: 90% of the time computes it on 2 threads"),
        (times(step=0.04, loader=0.05), "The loading of data bounds this training: it takes 50% of the time with 4"),
        (times(step=0.03, loader=0.0), "Hooks bound this training"),
        (times(step=0.03, waiting=0.06, device=0.095), "The device bounds this training"),
        (times(step=0.09, device=0.05), "The host bounds this training"),
        (times(step=0.03, loader=0.06, device=0.03), "The loading of data bounds this training"),
        (times(step=0.03, device=0.03), "Hooks bound this training"),
        (times(step=0.03, between=0.06), "Validations bound this training: they and the ends of epochs take 60%"),
        (times(step=0.03, waiting=0.03, between=0.03, device=0.066), "The device bounds this training"),
    ],
)
def test_verdict(measured, beginning):
    assert measured.verdict().startswith(beginning)


def test_rows_of_the_host_and_of_the_device_add_up():
    rows = dict(times(step=0.03, loader=0.01, waiting=0.05, device=0.08).rows())
    host = ["waiting for the loader", "host: queueing the step", "host: hooks and log", "host: waiting for the device"]
    assert sum(rows[name] for name in host) == pytest.approx(rows["iteration"])
    assert rows["device: computing"] + rows["device: idle"] == pytest.approx(rows["iteration"])


class SleepHook(Hook):
    """Makes every iteration 30 ms longer."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        time.sleep(0.03)


def collate_slowly(samples):
    """Take 40 ms more."""
    time.sleep(0.04)
    return collate_images(samples)


@pytest.mark.parametrize(
    ("harm", "row", "least"), [("hook", "host: hooks and log", 30), ("data", "waiting for the loader", 40)]
)
def test_a_training_prints_where_its_time_goes(tmp_path, harm, row, least):
    name, *options = runs.RESNET
    hooks = [dict(type=f"{__name__}.SleepHook")] if harm == "hook" else []
    if harm == "data":
        options += [f"train_dataloader.collate_fn.type={__name__}.collate_slowly"]
    runs.call(runs.train, tmp_path / "log", name, tmp_path / "run", *options, *LONG, hooks=hooks, time_iterations=8)
    printed = (tmp_path / "log").read_text()
    printed = printed[printed.index("8 iterations:\n") :]
    (found,) = re.findall(rf"{row} +(\d+\.\d+) +\d+%", printed)
    assert least <= float(found) < 3 * least
    assert re.search(r"^[A-Z][a-z ]+ bounds? this training: .*\.$", printed, re.MULTILINE)
    (log,) = (tmp_path / "run").glob("*/*.log")
    assert printed.strip() in log.read_text()


def test_too_short_a_training_says_so(tmp_path):
    name, *options = runs.RESNET
    runs.call(runs.train, tmp_path / "log", name, tmp_path / "run", *options, time_iterations=8)
    (log,) = (tmp_path / "run").glob("*/*.log")
    said = log.read_text()
    beginning, end = "--time-iterations 8 needs 29 iterations, and this ", "(train)"
    assert said.index(f"{beginning}training has 12: there will be no table") < said.index(end)
    assert said.index(f"{beginning}run had 12") > said.index(end)


def test_a_training_that_is_just_long_enough_gets_its_table(tmp_path):
    name, *options = runs.RESNET
    runs.call(runs.train, tmp_path / "log", name, tmp_path / "run", *options, *LONG, time_iterations=3)
    said = Path(tmp_path / "log").read_text()
    assert "3 iterations:\n" in said
    assert "there will be no table" not in said
