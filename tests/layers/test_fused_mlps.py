"""Tests of the MLPs of blocks: who computes them, and that networks stay what they are."""

import copy

import pytest
import torch
from timm.layers import Mlp
from torch import nn

from quadtree_ssm import QuadMamba
from ssm_core.layers import FusedMlp, fuse_mlps
from ssm_core.layers import mlp as layer
from ssm_core.testing import assert_as_good_as
from tree_ssm import MambaTreeV

SIZES = {"depths": (1, 1), "dims": (48, 96), "num_classes": 5}
MODELS = {"quadmamba": QuadMamba, "mambatree": MambaTreeV}


@pytest.fixture
def asked(monkeypatch):
    """The shapes of the tokens for which a block asks whether there is a kernel."""
    shapes = []

    def no_kernel(x, weight1, differentiable):
        shapes.append(tuple(x.shape))
        return False

    monkeypatch.setattr(layer, "has_mlp_kernel", no_kernel)
    return shapes


@pytest.mark.parametrize("name", MODELS)
def test_has_the_parameters_of_timms(name):
    model = MODELS[name](**SIZES)
    block = model.stages[0].blocks[0]
    assert isinstance(block.mlp, FusedMlp)
    assert block.mlp.state_dict().keys() == Mlp(48, 192).state_dict().keys()


def test_a_network_without_fused_layers_asks_for_no_kernel(asked):
    x = torch.randn(1, 3, 32, 32)
    model = MambaTreeV(**SIZES).eval()
    model(x)
    assert asked == [(1, 8, 8, 48), (1, 4, 4, 96)]
    fuse_mlps(model, fused=False)(x)
    MambaTreeV(fused=False, **SIZES)(x)
    assert len(asked) == 2


def hook(mlp):
    mlp.fc1.register_forward_hook(lambda *_: None)


def stand_in(mlp):
    mlp.fc2 = nn.Sequential(mlp.fc2)


def drop(mlp):
    mlp.drop1.p = 0.5


def without_bias(mlp):
    mlp.fc2.bias = None


@pytest.mark.parametrize("change", [hook, stand_in, drop, without_bias])
def test_changed_layers_are_called_as_they_are(asked, change):
    mlp = FusedMlp(48, 192)
    change(mlp)
    mlp(torch.randn(3, 48))
    assert not asked


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_networks_train_as_with_pytorchs_layers(name, compiled):
    torch.manual_seed(0)
    # Rounding must not choose another quadrant or another tree.
    fixed = {"choice": 0} if name == "quadmamba" else {"tree_kind": "raster"}
    plain = MODELS[name](drop_path_rate=0.0, linear_std=0.1, **fixed, **SIZES).cuda()
    fused = copy.deepcopy(plain)
    fuse_mlps(plain, fused=False)
    exact = copy.deepcopy(plain).double()
    batches = torch.randn(4, 4, 3, 64, 64, device="cuda")
    prepare = torch.compile if compiled else lambda model: model

    # Of one batch, a few sums of 48 numbers that cancel have the rounding of some of them by chance.
    def gradients(model, images):
        of_batches = []
        for x in images:
            model.zero_grad()
            model(x).float().square().mean().backward()
            of_batches.append({key.removeprefix("_orig_mod."): p.grad for key, p in model.named_parameters()})
        return {key: torch.stack([found[key] for found in of_batches]) for key in of_batches[0]}

    expected = gradients(exact, batches.double())
    with torch.autocast("cuda", torch.bfloat16):
        same, found = gradients(prepare(plain), batches), gradients(prepare(fused), batches)
    for key, value in found.items():
        assert_as_good_as(value, same[key], expected[key], key)
