"""Which kernels norm and convolve by default: this project's where they save time, PyTorch's elsewhere."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from quadtree_ssm import QuadMamba
from ssm_core.layers import FusedLayerNorm, Pending, fuse_convolutions, fuse_norms
from ssm_core.layers.norm import SMALLEST_ON_CPU, SMALLEST_ON_GPU
from ssm_core.testing import assert_close
from tree_ssm import MambaTreeV

SIZES = {"depths": (2, 1), "dims": (16, 24), "num_classes": 3}
MODELS = {"quadmamba": QuadMamba, "mambatree": MambaTreeV}
NORMS = {"ssm_core::norm", "ssm_core::gated_norm", "ssm_core::residual_norm"}


class Calls(TorchDispatchMode):
    """The names of all operators that run within."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def called(function, *args):
    with Calls() as calls:
        function(*args)
    return calls.names


def in_graph(network, *args):
    """The names of all operators of the compiled forward pass."""
    names = set()

    def keep(graph, inputs):
        names.update(str(node.target) for node in graph.graph.nodes)
        return graph

    torch.compiler.reset()
    torch.compile(network, fullgraph=True, backend=keep)(*args)
    return names


def ways_to_norm(norm, rows, device):
    """Every way to call a norm of 1,024 channels."""
    x = torch.randn(1, rows, 1024, device=device)
    return ((norm, x), (norm.gated, x, x), (norm.add, Pending(x, x, None)))


def test_large_maps_alone_are_normed_by_our_kernels_on_a_cpu():
    rows = SMALLEST_ON_CPU // 1024
    for always, count, expected in ((False, rows, True), (False, rows - 1, False), (True, 1, True)):
        norm = FusedLayerNorm(1024, always=always)
        for way in ways_to_norm(norm, count, "cpu"):
            with torch.no_grad():
                assert bool(called(*way) & NORMS) == expected


def test_our_norms_and_those_of_pytorch_agree():
    torch.manual_seed(0)
    ours = FusedLayerNorm(1024)
    with torch.no_grad():
        ours.weight.normal_()
        ours.bias.normal_()
    theirs = FusedLayerNorm.of(ours, always=False)
    for (f, *a), (g, *_) in zip(ways_to_norm(ours, 3, "cpu"), ways_to_norm(theirs, 3, "cpu"), strict=True):
        for y, expected in zip(f(*a), g(*a), strict=True):
            assert_close(y, expected)


def test_graphs_for_a_cpu_hold_pytorchs_norms():
    norm = FusedLayerNorm(1024, always=False)
    assert not any("ssm_core" in name for name in in_graph(norm, torch.randn(1, SMALLEST_ON_CPU // 1024, 1024)))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", MODELS)
def test_small_networks_on_a_cpu_compute_what_pytorchs_layers_do(name, training):
    torch.manual_seed(0)
    plain = MODELS[name](fused=False, drop_path_rate=0.5, **SIZES).train(training)
    network = MODELS[name](drop_path_rate=0.5, **SIZES).train(training)
    network.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 32, 32)
    results = []
    for model in (plain, network):
        torch.manual_seed(1)
        results.append(model(images))
        results[-1].sum().backward()
    assert torch.equal(*results)
    for p, q in zip(plain.parameters(), network.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("name", MODELS)
def test_hooks_see_maps_and_change_nothing(name):
    torch.manual_seed(0)
    network = fuse_convolutions(fuse_norms(MODELS[name](**SIZES))).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
    seen = {}
    for path, module in network.named_modules():
        if path.endswith(("blocks.0", "norm1", "norm2", "conv", "out_norm")):
            module.register_forward_pre_hook(lambda _, args, path=path: seen.__setitem__(("before", path), args[0]))
            module.register_forward_hook(lambda _, args, y, path=path: seen.__setitem__(("after", path), y))
    with torch.no_grad():
        assert_close(network(images), expected, tolerance=1e-5)
    block = "stages.0.blocks.0"
    for path in (block, f"{block}.norm1", f"{block}.norm2", f"{block}.mixer.conv", f"{block}.mixer.out_norm"):
        after = seen["after", path]
        assert type(seen["before", path]) is torch.Tensor
        assert type(after[0] if path == block else after) is torch.Tensor


def test_gradients_reach_backward_hooks():
    network = fuse_norms(MambaTreeV(**SIZES))
    seen = []
    network.stages[0].blocks[1].norm1.register_full_backward_hook(lambda _, into, out: seen.append(out[0]))
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    assert [tuple(g.shape) for g in seen] == [(2, 8, 8, 16)]


class Doubled(nn.Conv2d):
    """A convolution that computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("name", MODELS)
def test_what_stands_in_the_place_of_a_layer_is_called(name):
    torch.manual_seed(0)
    networks = MODELS[name](fused=False, **SIZES).eval(), fuse_convolutions(fuse_norms(MODELS[name](**SIZES))).eval()
    networks[1].load_state_dict(networks[0].state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = networks[0](images)
        for network in networks:
            block = network.stages[0].blocks[1]
            block.norm2 = nn.Sequential(block.norm2)
            block.mixer.conv.__class__ = Doubled
        after = networks[0](images)
        assert not torch.allclose(before, after)
        assert_close(networks[1](images), after, tolerance=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_graphs_for_a_gpu_hold_our_layers(name):
    network = MODELS[name](**SIZES).cuda()
    names = in_graph(network, torch.randn(2, 3, 32, 32, device="cuda"))
    assert not any("layer_norm" in name and "ssm_core" not in name for name in names)
    assert any("residual_norm" in name for name in names)
    assert any("depthwise_conv" in name for name in names)
    assert any("gated_state_readout" in name for name in names) == (name == "mambatree")


@pytest.mark.gpu
def test_large_maps_alone_are_normed_by_our_kernels_on_a_gpu():
    rows = SMALLEST_ON_GPU // 1024
    for count, expected in ((rows, True), (rows - 1, False)):
        norm = FusedLayerNorm(1024, always=False).cuda()
        for way in ways_to_norm(norm, count, "cuda"):
            with torch.no_grad():
                assert bool(called(*way) & NORMS) == expected
