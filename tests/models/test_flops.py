"""The parameters of every variant, and the operations of the published variants, equal the tables."""

import pytest
import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import quadtree_ssm
import tree_ssm
from ssm_core.flops import FlopCount, activation_bytes, count_flops, count_pass
from ssm_core.layers import SelectiveSSM
from tree_ssm.ops import grid_distances, minimum_spanning_tree

PARAMETERS = {  # in millions; no paper has QuadMamba's nano, or MambaTree's nano and lite
    "quadmamba_nano": 1.768,
    "quadmamba_lite": 5.470,
    "quadmamba_tiny": 10.323,
    "quadmamba_small": 31.252,
    "quadmamba_base": 50.694,
    "mambatree_nano": 2.045,
    "mambatree_lite": 5.925,
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
    assert count.published == count.total


def test_zeros_beside_the_weights_of_projections_are_no_work():
    """By hand: 3 · 7 tokens have 24 channels and two directions, with rank 5 and one state."""

    class Project(nn.Module):
        def __init__(self):
            super().__init__()
            self.scan = SelectiveSSM(24, 1, 5, 2)

        def forward(self, x):
            return self.scan.project(x)

    model = Project()
    assert count_pass(model, torch.rand(3, 7, 24)) == FlopCount(21 * 24 * 2 * (5 + 1 + 1) + 2 * 21 * 5 * 24, 0, 0)
    assert model.scan.multiple == SelectiveSSM.multiple


def test_a_transformer_as_fvcore_counts():
    """fvcore 0.1.5 gives this count for Swin-T of timm 1.0.31 without fused attention. Swin's paper says 4.5 G."""
    assert count_flops(timm.create_model("swin_tiny_patch4_window7_224").eval()) == FlopCount(4_509_194_496, 0, 0)


@pytest.mark.parametrize("arch", MAMBATREE_GMACS)
def test_mambatree_macs_without_scan(arch):
    count = count_flops(tree_ssm.MambaTreeV(arch=arch).eval())
    assert count.published / 1e9 == pytest.approx(MAMBATREE_GMACS[arch], rel=5e-3)
    assert 0 < count.scans + count.trees < 0.01 * count.total


def test_flops_grow_with_the_image():
    model = quadtree_ssm.QuadMamba(depths=(1, 1, 1, 1), dims=(16, 16, 16, 16), in_chans=1).eval()
    small, large = (count_flops(model, size, in_chans=1) for size in ((64, 64), (128, 64)))
    assert large.scans == 2 * small.scans
    assert 1.9 * small.total < large.total < 2 * small.total


def test_a_tree_by_hand():
    """A 3 × 4 grid with 5 channels has 17 edges and 12 vertices. A vertex number takes 4 bits."""

    class Grow(nn.Module):
        def forward(self, x):
            return minimum_spanning_tree(grid_distances(x), 3, 4)

    assert count_pass(Grow(), torch.rand(2, 3, 4, 5)) == FlopCount(2 * (29 * 5 + 17 * 4), 0, 2 * (29 * 5 + 17 * 4))


@pytest.mark.parametrize("fake", [False, True])
def test_activations_by_hand(fake):
    """The input, GELU's input and GELU's output count once each, although the view shares the output's memory."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.fc2(nn.functional.gelu(self.fc1(x)).view(2, 5, 6)).relu()

    with FakeTensorMode() if fake else torch.no_grad():
        # relu saves its result, too.
        assert activation_bytes(Net(), torch.rand(2, 5, 4)) == 4 * 2 * 5 * (4 + 6 + 6 + 3)


def test_activations_are_what_autograd_holds():
    """The count equals the bytes that the graph's nodes saved, for convolutions, norms and scans."""
    model = tree_ssm.MambaTreeV(depths=(1,), dims=(8,), in_chans=1, num_classes=3).eval()
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    images = torch.rand(1, 1, 32, 32)
    nodes, seen, held = [model(images).grad_fn], set(), {}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        saved += list(getattr(node, "saved_tensors", ()))
        for tensor in (t for t in saved if isinstance(t, torch.Tensor)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                held[storage.data_ptr()] = storage.nbytes()
    assert activation_bytes(model, images) == sum(held.values())
