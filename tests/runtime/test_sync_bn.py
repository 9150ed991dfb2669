"""Batch norms of several processes: synchronised on GPUs, plain without; mmengine sees to runs of one process."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm as convert_by_mmengine
from mmengine.runner import Runner as MMEngineRunner
from torch import nn

from ssm_core.errors import ConfigError
from ssm_train.runtime.runner import Runner
from tree_ssm.modules import ConvHead


@pytest.fixture
def wrap(monkeypatch):
    """A model after a run of several processes has wrapped it."""

    def wrapped(model, gpus, config, wrapper=None):
        def wrap_by_mmengine(runner, wrapper, model):  # what it does before it asks for processes
            wrapped.settings = wrapper
            sync_bn = runner.cfg.get("sync_bn")
            return model if sync_bn is None else convert_by_mmengine(model, sync_bn)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
        monkeypatch.setattr(MMEngineRunner, "wrap_model", wrap_by_mmengine)
        runner = Runner.__new__(Runner)
        runner._distributed, runner.cfg = True, Config(config)
        result = runner.wrap_model(wrapper, model)
        assert runner.cfg.to_dict() == config
        return result

    return wrapped


@pytest.mark.parametrize("config", [{}, {"sync_bn": "torch"}])
def test_processes_on_cpus(wrap, config):
    for model in (nn.SyncBatchNorm(3), nn.BatchNorm2d(3)):
        norm = wrap(nn.Sequential(model), False, config)[0]
        assert not isinstance(norm, nn.SyncBatchNorm)
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)


@pytest.mark.parametrize("gpus", [True, False])
def test_settings_of_the_wrapper(wrap, gpus):
    """Ours where the config has none; a config's own stand alone, but for the GPU that a CPU has not."""
    own = {} if gpus else {"device_ids": None}
    ours = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    wrap(nn.Linear(1, 1), gpus, {"find_unused_parameters": True})
    assert wrap.settings == {**ours, "find_unused_parameters": True, **own}
    config = {"static_graph": True}
    wrap(nn.Linear(1, 1), gpus, {}, config)
    assert wrap.settings == {**config, **own}
    assert config == {"static_graph": True}


def test_processes_on_gpus(wrap):
    assert type(wrap(nn.Sequential(nn.SyncBatchNorm(3)), True, {})[0]) is nn.SyncBatchNorm
    assert type(wrap(nn.Sequential(nn.BatchNorm2d(3)), True, {"sync_bn": "torch"})[0]) is nn.SyncBatchNorm


def test_synchronised_norms_keep_their_activation(wrap):
    head = ConvHead(4, 8).eval()
    wrapped = wrap(copy.deepcopy(head), True, {"sync_bn": "torch"})
    assert isinstance(wrapped.bn, nn.SyncBatchNorm)
    x = torch.randn(2, 3, 3, 4)
    assert (head(x) < 0).any(), "GELU's outputs are negative in places"
    # SyncBatchNorm in evaluation is an ordinary batch norm, on a CPU too.
    torch.testing.assert_close(wrapped(x), head(x), rtol=0, atol=0)
    assert list(wrapped.state_dict()) == list(head.state_dict())


def test_unknown_kind(wrap):
    with pytest.raises(ConfigError, match="sync_bn is 'torch', or left out, not 'mmcv'"):
        wrap(nn.Sequential(nn.BatchNorm2d(3)), True, {"sync_bn": "mmcv"})
