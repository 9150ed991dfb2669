"""Tests that a training on one CPU begins with lines that tell a user something, and with no others."""

import os
import subprocess
import sys

import torch
from command_line import ROOT
from mmengine.model.utils import _BatchNormXd

from ssm_train.apis.train import test as evaluate
from ssm_train.runtime.building_runner import BuildingRunner
from ssm_train.runtime.loading_processes import too_many

SHORT = ("model.backbone.depths=(1,1,1,1)", "model.backbone.dims=(8,16,16,16)", "train_cfg.max_epochs=1",
         "train_dataloader.num_batch_per_epoch=2", "val_dataloader.num_batch_per_epoch=1",
         "default_hooks.logger.interval=1", "default_hooks.pictures.count=0", "visualizer.tensorboard=False",
         "param_scheduler=[]")  # fmt: skip


def first_lines(folder, config, *options):
    """What is printed before the first iteration, without times and levels."""
    command = [sys.executable, "-m", "ssm_train.commands", "train", config, "--work-dir", folder, "--cfg-options"]
    done = subprocess.run(
        [*command, *SHORT, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    end = next(place for place, line in enumerate(lines) if "Epoch(train)" in line)
    return [line.partition(" - INFO - ")[2] or line for line in lines[:end]]


def test_nothing_is_said_of_what_the_config_does_not_have(tmp_path):
    assert first_lines(tmp_path, "quadmamba/quadmamba-nano_digits") == []


def test_more_loading_processes_than_cores_are_one_line(tmp_path):
    have = len(os.sched_getaffinity(0))
    loaders = [f"{key}.num_workers={have + 1}" for key in ("train_dataloader", "val_dataloader")]
    (line,) = first_lines(tmp_path, "quadmamba/quadmamba-nano_digits", *loaders)
    assert line.startswith(f"{loaders[0]} and {loaders[1]} are more than one for each core of this machine, which has ")
    assert line.endswith(": None leaves the number to the machine")


def test_a_test_tells_of_its_own_loader(tmp_path):
    import runs

    have = len(os.sched_getaffinity(0))
    cfg = runs.configure(*runs.RESNET[:1], tmp_path, *runs.RESNET[1:], f"test_dataloader.num_workers={have + 1}")
    weights = tmp_path / "weights.pth"
    torch.save(BuildingRunner.from_cfg(cfg).model.state_dict(), weights)
    evaluate(cfg, weights)
    log = "".join(path.read_text() for path in tmp_path.rglob("*.log"))
    assert log.count(f"test_dataloader.num_workers={have + 1} is more than one for each core of this machine") == 1


def test_as_many_loading_processes_as_cores_are_not_told_of():
    assert too_many({"train_dataloader": {"num_workers": 1}, "val_dataloader": None, "test_dataloader": {}}) == ""
    assert too_many({"val_dataloader": {"num_workers": 10**6}}).startswith("val_dataloader.num_workers=1000000 is more")


def test_synchronised_norms_are_still_made_plain(tmp_path):
    import runs

    runner = BuildingRunner.from_cfg(runs.configure(*runs.RESNET[:1], tmp_path, *runs.RESNET[1:]))
    model = torch.nn.Sequential(torch.nn.SyncBatchNorm(4))
    assert isinstance(runner.wrap_model(None, model)[0], _BatchNormXd)
    plain = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    assert runner.wrap_model(None, plain) is plain
