"""Tests the tools for training and testing from the command line to the final figures."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from command_line import CONFIGS, ROOT, error_of, run

DIGITS = CONFIGS / "resnet" / "resnet18_digits.py"
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable}
OPTIONS = [
    "model.backbone.name=test_efficientnet_gn",
    "train_cfg.max_epochs=2",
    "train_dataloader.num_batch_per_epoch=4",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train with TensorBoard and offline W&B. Return the work folder and the printed text."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, ROOT / "tools" / "train.py", DIGITS, "--work-dir", folder, "--amp"]
    done = subprocess.run(
        [*command, "--cfg-options", "visualizer.wandb=True", *OPTIONS],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, done.stdout


def test_last_line_has_the_figures(trained):
    folder, printed = trained
    assert re.fullmatch(rf"top-1 [\d.]+ %, best [\d.]+ % after epoch [12], in {folder}", printed.splitlines()[-1])
    assert "eta: 0:00" in printed
    assert max(map(len, printed.splitlines())) < 250, "the console has no listings"


def test_what_a_run_leaves(trained):
    folder, _ = trained
    curves = json.loads((folder / "curves.json").read_text())
    assert [p["iter"] for p in curves["val"]] == [4, 8]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    data = next(folder.glob("*/vis_data"))
    assert list(data.glob("events.out.tfevents.*"))
    assert list(data.glob("wandb/offline-run-*"))
    assert (data / "scalars.json").exists()
    assert sorted(p.name for p in folder.glob("epoch_*.pth")) == ["epoch_1.pth", "epoch_2.pth"]
    assert "bfloat16" in next(folder.glob("*.py")).read_text(), "--amp is in the config that is kept"


def test_checkpoint_holds_plain_data(trained):
    state = torch.load(trained[0] / "epoch_2.pth", weights_only=True)
    assert state["meta"]["epoch"] == 2
    assert state["meta"]["config_file"] == DIGITS.name


def test_the_test_tool_gives_the_validated_figure(trained, capsys, tmp_path):
    folder, _ = trained
    expected = json.loads((folder / "curves.json").read_text())["val"][-1]["top1"]
    options = ["--work-dir", tmp_path, "--cfg-options", *OPTIONS, "visualizer.tensorboard=False"]
    assert run("test", DIGITS, folder / "epoch_2.pth", *options) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"top1 {expected:.2f}, precision ")


def test_a_test_needs_no_training_data(trained, tmp_path):
    """A model is tested on machines that have the test set alone."""
    folder, _ = trained
    options = [*OPTIONS, "visualizer.tensorboard=False", "train_dataloader.dataset.split=nowhere"]
    assert run("test", DIGITS, folder / "epoch_2.pth", "--work-dir", tmp_path, "--cfg-options", *options) == 0
    assert json.loads((tmp_path / "evaluation" / "test.json").read_text())["top1"] > 0


def test_a_bare_state_dict_of_the_network_can_be_tested(trained, capsys, tmp_path):
    folder, _ = trained
    state = torch.load(folder / "epoch_2.pth", weights_only=True)["state_dict"]
    torch.save({"model": {k.removeprefix("backbone."): v for k, v in state.items()}}, tmp_path / "bare.pth")
    options = ["--work-dir", tmp_path, "--cfg-options", *OPTIONS, "experiment_name=bare"]
    assert run("test", DIGITS, tmp_path / "bare.pth", *options) == 0
    expected = json.loads((folder / "curves.json").read_text())["val"][-1]["top1"]
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"top1 {expected:.2f}, precision ")


def test_resuming_nothing_starts_from_the_given_weights(trained, capsys, tmp_path):
    folder, _ = trained
    options = ["--work-dir", tmp_path, "--resume", "--cfg-options", *OPTIONS, "experiment_name=start_from"]
    options += [f"load_from={folder / 'epoch_2.pth'}", "train_cfg.max_epochs=1", "optim_wrapper.optimizer.lr=0.0"]
    assert run("train", DIGITS, *options) == 0
    warning = f"no checkpoint to resume from in {tmp_path}"
    assert warning in capsys.readouterr().out
    states = [torch.load(f, weights_only=True) for f in (tmp_path / "epoch_1.pth", folder / "epoch_2.pth")]
    assert all(torch.equal(v, states[1]["state_dict"][k]) for k, v in states[0]["state_dict"].items())
    assert states[0]["meta"]["iter"] == 4
    options[1], options[options.index("experiment_name=start_from")] = tmp_path / "new", "experiment_name=new"
    assert run("train", DIGITS, "--or-begin", *options) == 0
    assert warning not in capsys.readouterr().out, "nobody expected one"
    assert (tmp_path / "new" / "epoch_1.pth").exists()
    for others in ([], ["--resume", tmp_path / "epoch_1.pth"]):
        line = error_of(capsys, "train", DIGITS, "--or-begin", *others, "--work-dir", tmp_path / "none")
        assert line == "error: --or-begin goes with a --resume that names no checkpoint"


def test_resuming_with_another_batch_size(trained, capsys, tmp_path):
    folder, _ = trained
    shutil.copy(folder / "epoch_1.pth", tmp_path)
    options = ["--work-dir", tmp_path, "--resume", "--cfg-options", *OPTIONS, "train_dataloader.num_batch_per_epoch=5"]
    line = error_of(capsys, "train", DIGITS, *options, "experiment_name=other_length")
    assert "had 128 training samples and this config gives 160" in line


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh", "slurm_train.sh"])
def test_scripts_say_how_they_are_used(script):
    command = script.removesuffix(".sh").replace("_", "-")
    done = subprocess.run([ROOT / "tools" / script], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: tree-ssm {command} "), done.stderr


def test_slurm_script(tmp_path):
    (tmp_path / "sbatch").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "sbatch").chmod(0o755)
    done = subprocess.run(
        [ROOT / "tools" / "slurm_train.sh", "gpu", DIGITS, "--amp"],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}", "GPUS": "4"},
    )
    assert done.returncode == 0
    assert "--ntasks 4 --ntasks-per-node 4 --gres gpu:4" in done.stdout
    assert done.stdout.rstrip().endswith(f"slurm_job.sh {DIGITS} --amp")
