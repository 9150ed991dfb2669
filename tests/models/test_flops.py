"""Parameters and work of every variant equal the published tables."""

import pytest
import timm
import torch

import quadtree_ssm
import tree_ssm
from ssm_core.flops import count_flops

PARAMETERS = {  # millions
    "quadmamba_lite": 5.470,
    "quadmamba_tiny": 10.323,
    "quadmamba_small": 31.252,
    "quadmamba_base": 50.694,
    "mambatree_tiny": 29.959,
    "mambatree_small": 51.332,
    "mambatree_base": 90.597,
}
QUADMAMBA_GFLOPS = {"lite": 0.821, "tiny": 2.071, "small": 5.518, "base": 9.376}
MAMBATREE_GMACS = {"tiny": 4.778, "small": 8.521, "base": 15.089}  # without scan


def test_every_registered_model_is_in_the_table():
    assert sorted(timm.list_models(["quadmamba_*", "mambatree_*"])) == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == PARAMETERS[name]


@pytest.mark.parametrize("arch", QUADMAMBA_GFLOPS)
def test_quadmamba_flops(arch):
    count = count_flops(quadtree_ssm.QuadMamba(arch=arch).eval())
    assert count.total / 1e9 == pytest.approx(QUADMAMBA_GFLOPS[arch], rel=5e-3)
    assert 0 < count.scans < 0.02 * count.total


@pytest.mark.parametrize("arch", MAMBATREE_GMACS)
def test_mambatree_macs_without_scan(arch):
    count = count_flops(tree_ssm.MambaTreeV(arch=arch).eval())
    assert (count.total - count.scans) / 1e9 == pytest.approx(MAMBATREE_GMACS[arch], rel=5e-3)


def test_flops_grow_with_the_image():
    model = quadtree_ssm.QuadMamba(depths=(1, 1, 1, 1), dims=(16, 16, 16, 16), in_chans=1).eval()
    small, large = (count_flops(model, size, in_chans=1) for size in ((64, 64), (128, 64)))
    assert large.scans == 2 * small.scans
    assert 1.9 * small.total < large.total < 2 * small.total
