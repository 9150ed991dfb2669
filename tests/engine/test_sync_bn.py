"""Synchronised batch norms where there is no GPU to synchronise on; mmengine sees to runs of one process."""

import pytest
import torch
from mmengine.runner import Runner as MMEngineRunner
from torch import nn

from ssm_core.engine.runner import Runner


@pytest.fixture
def wrapped(monkeypatch):
    """The kind of a synchronised norm after a run of several processes has wrapped its model."""

    def wrap(gpus):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
        monkeypatch.setattr(MMEngineRunner, "wrap_model", lambda self, cfg, model: model)  # needs processes
        runner = Runner.__new__(Runner)
        runner._distributed, runner.cfg = True, {}
        return type(runner.wrap_model(None, nn.Sequential(nn.SyncBatchNorm(3)))[0])

    return wrap


def test_processes_on_cpus(wrapped):
    norm = wrapped(gpus=False)
    assert not issubclass(norm, nn.SyncBatchNorm)
    assert issubclass(norm, nn.modules.batchnorm._BatchNorm)


def test_processes_on_gpus(wrapped):
    assert wrapped(gpus=True) is nn.SyncBatchNorm
