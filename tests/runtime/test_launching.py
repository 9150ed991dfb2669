"""Tests of batch norms and of the model wrapper in runs of several processes. Norms are synchronised only on GPUs."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import runs
import torch
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from torch import nn

from ssm_core.errors import ConfigError
from ssm_train.apis import cli
from ssm_train.runtime.launching import join_processes, synchronise_norms, wrapper_settings
from ssm_train.runtime.runner import Runner
from tree_ssm.modules import ConvHead

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize("convert", [True, False])
def test_norms_on_cpus_are_plain(convert):
    for norm in (nn.SyncBatchNorm(3), nn.BatchNorm2d(3)):
        (plain,) = synchronise_norms(nn.Sequential(norm), on_gpu=False, convert=convert)
        assert not isinstance(plain, nn.SyncBatchNorm)
        assert isinstance(plain, nn.modules.batchnorm._BatchNorm)
        assert torch.isfinite(plain(torch.randn(2, 3, 4, 4))).all()


def test_norms_on_gpus():
    """Synchronised norms stay synchronised. Plain norms become synchronised on request."""
    for norm, convert, expected in (
        (nn.SyncBatchNorm(3), False, nn.SyncBatchNorm),
        (nn.SyncBatchNorm(3), True, nn.SyncBatchNorm),
        (nn.BatchNorm2d(3), True, nn.SyncBatchNorm),
        (nn.BatchNorm2d(3), False, nn.BatchNorm2d),
    ):
        assert type(synchronise_norms(nn.Sequential(norm), on_gpu=True, convert=convert)[0]) is expected


def test_synchronised_norms_keep_their_activation():
    head = ConvHead(4, 8).eval()
    converted = synchronise_norms(copy.deepcopy(head), on_gpu=True, convert=True)
    assert isinstance(converted.bn, nn.SyncBatchNorm)
    x = torch.randn(2, 3, 3, 4)
    assert (head(x) < 0).any(), "GELU's outputs are negative in places"
    # In evaluation SyncBatchNorm acts as an ordinary batch norm, on a CPU too.
    torch.testing.assert_close(converted(x), head(x), rtol=0, atol=0)
    assert list(converted.state_dict()) == list(head.state_dict())


TORCHRUN = dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
SLURM = dict(SLURM_PROCID="0", SLURM_NTASKS="1", SLURM_LOCALID="0", SLURM_JOB_ID="7", MASTER_ADDR="127.0.0.1")


@pytest.mark.parametrize(
    ("launcher", "known", "name", "text"),
    [
        *(("pytorch", TORCHRUN, name, text) for name in TORCHRUN for text in (None, "x") if name != "MASTER_ADDR"),
        ("pytorch", TORCHRUN, "MASTER_ADDR", None),
        ("pytorch", TORCHRUN, "WORLD_SIZE", "0"),
        ("pytorch", TORCHRUN, "RANK", "1"),
        ("pytorch", TORCHRUN, "RANK", "-1"),
        ("pytorch", TORCHRUN, "MASTER_PORT", "65536"),
        *(("slurm", SLURM, name, "x") for name in SLURM if name != "MASTER_ADDR"),
        *(("slurm", SLURM, name, None) for name in ("SLURM_PROCID", "SLURM_NTASKS")),
        ("slurm", SLURM, "SLURM_PROCID", "1"),
    ],
)
def test_a_broken_variable_of_the_launcher_is_named(monkeypatch, launcher, known, name, text):
    for other in {*TORCHRUN, *SLURM, "SLURM_STEP_NODELIST", "SLURM_NODELIST"}:
        monkeypatch.setenv(other, "")  # so that what the function sets is forgotten, too
        monkeypatch.delenv(other)
    for other, value in known.items():
        monkeypatch.setenv(other, value)
    monkeypatch.setenv(name, text) if text is not None else monkeypatch.delenv(name)
    shown = {("RANK", None): "is for torchrun", ("SLURM_PROCID", "1"): "RANK=1"}.get((name, text), rf"\b{name}\b")
    with pytest.raises(ConfigError, match=shown):
        join_processes(launcher, {})


def test_a_broken_local_rank_without_a_launcher_is_named(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "x")
    assert cli.run(lambda: MMLogger.get_instance("of a broken local rank")) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "LOCAL_RANK must be a whole number" in said


def test_settings_of_the_wrapper(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    given = {"static_graph": True}
    on_gpu = wrapper_settings(given, on_gpu=True)
    assert on_gpu == {"static_graph": True, "type": "MMDistributedDataParallel", "device_ids": [1]}
    assert wrapper_settings(given, on_gpu=False)["device_ids"] is None
    assert wrapper_settings({"device_ids": [3]}, on_gpu=True)["device_ids"] == [3]
    assert wrapper_settings({"device_ids": [3]}, on_gpu=False)["device_ids"] is None
    assert "device_ids" not in wrapper_settings({"type": "MMFullyShardedDataParallel"}, on_gpu=True)
    assert given == {"static_graph": True}


def build_runner(name, work_dir, *options, **settings):
    """Build a Runner in this process, which is the only one of its distributed run. Nothing is trained."""
    port = runs.free_port()
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    cfg = runs.configure(name, work_dir, *options)
    cfg.launcher = "pytorch"
    cfg.merge_from_dict(settings)
    before = copy.deepcopy(cfg.to_dict())
    runner = Runner.from_cfg(cfg)
    assert cfg.to_dict() == before
    assert isinstance(runner.model, MMDistributedDataParallel)
    return runner


def check_on_cpu(work_dir):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # hide the GPU if there is one
    runner = build_runner(*runs.MAMBATREE[:1], work_dir, *runs.MAMBATREE[1:], "sync_bn=torch")
    norms = [m for m in runner.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert not any(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert runner.model.device_ids is None
    assert runner.model.gradient_as_bucket_view
    assert not runner.model.broadcast_buffers


def check_on_gpu(work_dir):
    runner = build_runner(*runs.MAMBATREE[:1], work_dir, *runs.MAMBATREE[1:], "sync_bn=torch")
    norms = [m for m in runner.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert runner.model.device_ids == [0]
    head = runner.bare_model.backbone.head.transform
    x = torch.randn(2, 8, 8, head.conv.in_channels, device="cuda")
    assert (head(x) < 0).any(), "the activation is still there"


def check_own_wrapper(work_dir):
    name, *options = runs.QUADMAMBA
    runner = build_runner(name, work_dir, *options, model_wrapper_cfg={"static_graph": True})
    assert runner.model.static_graph
    assert not runner.model.gradient_as_bucket_view, "a config's own settings stand alone"


def test_a_run_on_the_cpu(tmp_path):
    runs.call(check_on_cpu, tmp_path / "log", tmp_path / "run")


def test_a_configs_own_wrapper(tmp_path):
    runs.call(check_own_wrapper, tmp_path / "log", tmp_path / "run")


@pytest.mark.gpu
def test_a_run_on_a_gpu(tmp_path):
    """The check runs in a fresh interpreter, because a forked process cannot use the GPU."""
    code = f"import {Path(__file__).stem} as tests; tests.check_on_gpu({str(tmp_path)!r})"
    folders = os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parents[1])))
    path = os.pathsep.join(filter(None, (folders, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_unknown_kind(tmp_path):
    with pytest.raises(ConfigError, match="sync_bn has to be 'torch' or None, not 'mmcv'"):
        runs.configure("resnet/resnet18_digits.py", tmp_path, "model.backbone.name=test_efficientnet", "sync_bn=mmcv")
