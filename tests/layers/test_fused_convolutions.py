"""Networks whose convolution and SiLU are one operator compute what they compute without it, in both families."""

import copy

import pytest
import torch
from oracles.fused_networks import (
    assert_low_precision_is_as_good,
    assert_same,
    assert_same_with_checkpointing,
    assert_stage_compiles,
)
from torch import fx

from quadtree_ssm import QuadMamba
from ssm_core.layers import ScanMixer, fuse_convolutions, record_scans
from ssm_core.testing import assert_close
from tree_ssm import MambaTreeV

SIZES = {"depths": (2, 1), "dims": (16, 24), "num_classes": 3}
MODELS = {"quadmamba": QuadMamba, "mambatree": MambaTreeV}


def pair(name):
    """A network with random parameters, and the same with fused convolutions."""
    torch.manual_seed(0)
    plain = MODELS[name](fused=False, **SIZES)
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return plain, fuse_convolutions(copy.deepcopy(plain))


@pytest.mark.parametrize("name", MODELS)
def test_fused_convolutions_change_no_result(name):
    plain, fused = (model.double() for model in pair(name))
    assert all(m.fused_conv is False for m in plain.modules() if isinstance(m, ScanMixer))
    assert all(m.fused_conv for m in fused.modules() if isinstance(m, ScanMixer))
    assert_same(plain, fused, torch.randn(4, 3, 32, 40, dtype=torch.float64))


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_the_same(name):
    plain, fused = pair(name)
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in fused.state_dict().items()}
    plain.load_state_dict(fused.state_dict())
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = plain.eval()(images)
        fuse_convolutions(fused, fused=False)
        assert torch.equal(fused.eval()(images), expected)


@pytest.mark.parametrize("name", MODELS)
def test_low_precision_is_as_good(name):
    assert_low_precision_is_as_good(*pair(name))


def test_checkpointing():
    assert_same_with_checkpointing(*pair("quadmamba"))


@pytest.mark.parametrize("name", MODELS)
def test_stages_compile(name):
    assert_stage_compiles(pair(name)[1].stages[0])


@pytest.mark.parametrize("name", MODELS)
def test_graphs_of_torch_fx_hold_them(name):
    _, fused = pair(name)
    graph = fx.symbolic_trace(fused.eval())
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(graph(images), fused(images))


def test_scans_are_recorded():
    _, fused = pair("quadmamba")
    with torch.no_grad(), record_scans(fused) as record:
        fused(torch.randn(2, 3, 32, 32))
    assert len(record) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu(name):
    """The same results in float32, and a compiled step of training under autocast."""
    plain, fused = (model.cuda().eval() for model in pair(name))
    images = torch.randn(4, 3, 64, 64, device="cuda")
    with torch.no_grad():
        assert_close(fused(images), plain(images), tolerance=1e-4)
    step = torch.compile(fused.train(), fullgraph=True)
    with torch.autocast("cuda", torch.bfloat16):
        loss = step(images).float().square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fused.parameters())
