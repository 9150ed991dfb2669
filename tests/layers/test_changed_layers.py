"""Networks that users change or watch compute with this project's kernels what they compute with PyTorch's layers."""

import pytest
import torch
from timm.layers import DropPath
from torch import nn
from torch.nn.modules import module as hooks_of_all
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import StochasticDepth

from quadtree_ssm import QuadMamba
from ssm_core.layers import fuse_convolutions, fuse_norms
from ssm_core.testing import assert_close
from tree_ssm import MambaTreeV

SIZES = {"depths": (2, 1), "dims": (16, 24), "num_classes": 3, "drop_path_rate": 0.5}
MODELS = {"quadmamba": QuadMamba, "mambatree": MambaTreeV}
IMAGES = torch.randn(4, 3, 32, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

both = pytest.mark.parametrize("name", MODELS)


def pair(name):
    """A network with PyTorch's layers, and the same with this project's kernels everywhere."""
    torch.manual_seed(0)
    plain = MODELS[name](fused=False, **SIZES)
    fused = fuse_convolutions(fuse_norms(MODELS[name](**SIZES)))
    fused.load_state_dict(plain.state_dict())
    return plain.double().eval(), fused.double().eval()


def assert_same_after(change, name, training=False):
    """A change has an effect, and the same one in both networks."""
    results = []
    for network in pair(name):
        before = network(IMAGES)
        change(network)
        torch.manual_seed(1)
        results.append(network.train(training)(IMAGES))
        assert not torch.allclose(before, results[-1])
    assert_close(results[1], results[0], tolerance=1e-8)


class Third(DropPath):
    """What replaces stochastic depth."""

    def forward(self, x):
        return x / 3


@both
@pytest.mark.parametrize("other", [Third(0.5), StochasticDepth(0.5, "row"), nn.Sequential(Third(0.5))])
def test_what_stands_in_the_place_of_stochastic_depth_is_called(name, other):
    assert_same_after(lambda network: setattr(network.stages[0].blocks[1], "drop_path", other), name, training=True)


@both
def test_hooks_of_stochastic_depth_run(name):
    def double(network):
        network.stages[0].blocks[1].drop_path.register_forward_hook(lambda module, args, y: 2 * y)

    assert_same_after(double, name)


@both
@pytest.mark.parametrize("layer", ["norm2", "mixer.conv", "mixer.out_norm"])
def test_a_forward_that_is_set_on_a_layer_is_called(name, layer):
    def double(network):
        changed = network.stages[0].blocks[1].get_submodule(layer)
        forward = changed.forward
        changed.forward = lambda x: 2 * forward(x)

    assert_same_after(double, name)


@both
@pytest.mark.parametrize("layer", ["norm1", "norm2", "mixer.out_norm"])
def test_classes_that_are_derived_from_a_norm_are_called(name, layer):
    def double(network):
        changed = network.stages[0].blocks[1].get_submodule(layer)
        kind = type(changed)
        changed.__class__ = type("Doubled", (kind,), {"forward": lambda self, x: 2 * kind.forward(self, x)})

    assert_same_after(double, name)


@both
@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 5, "padding": 2}, {"dilation": 2, "padding": 2}, {"padding_mode": "reflect"}, {"groups": 16}],
    ids=str,
)
def test_other_convolutions_are_called(name, options):
    def replace(network):
        torch.manual_seed(2)
        conv = nn.Conv2d(32, 32, **{"kernel_size": 3, "padding": 1, "groups": 32} | options)
        network.stages[0].blocks[1].mixer.conv = conv.double()

    assert_same_after(replace, name)


class Adapter(nn.Module):
    """A block with something beside it."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, previous=None):
        y, chosen = self.block(x, previous)
        return 2 * y + x, chosen


@both
@pytest.mark.parametrize("which", [[0], [1], [0, 1]])
def test_wrapped_blocks_take_and_give_maps(name, which):
    def wrap(network):
        for i in which:
            network.stages[0].blocks[i] = Adapter(network.stages[0].blocks[i])

    assert_same_after(wrap, name)


@both
def test_a_block_that_is_called_alone_gives_a_map(name):
    maps = [network.stages[0].blocks[0](network.stem(IMAGES))[0] for network in pair(name)]
    assert_close(maps[1], maps[0], tolerance=1e-8)


@both
@pytest.mark.parametrize("alone", [False, True], ids=["of all modules", "of each module"])
def test_hooks_are_called_for_the_same_modules_and_maps(name, alone):
    calls = []
    for network in pair(name):
        names = {module: path for path, module in network.named_modules()}
        seen = []

        def keep(module, args, y, names=names, seen=seen):
            seen.append((names[module], *(v.shape if isinstance(v, torch.Tensor) else type(v) for v in (*args, y))))

        if alone:
            handles = [module.register_forward_hook(keep) for module in names]
        else:
            handles = [hooks_of_all.register_module_forward_hook(keep)]
        try:
            network(IMAGES)
        finally:
            for handle in handles:
                handle.remove()
        calls.append(seen)
    assert calls[0] == calls[1]


@both
@pytest.mark.parametrize("node", ["norm1", "norm2", "mlp.fc2", "mixer.out_norm"])
def test_feature_extraction_finds_the_layers_of_a_block(name, node):
    path = f"stages.0.blocks.1.{node}"
    maps = [create_feature_extractor(network, [path])(IMAGES)[path] for network in pair(name)]
    assert_close(maps[1], maps[0], tolerance=1e-8)
