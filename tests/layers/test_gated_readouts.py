"""Mixers with a gate let their scan norm and gate its result, and compute what the layers one by one compute."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ssm_core.layers import FusedLayerNorm, fuse_convolutions, fuse_norms
from ssm_core.testing import assert_close
from tree_ssm import MambaTreeV
from tree_ssm.modules import TreeScan

SIZES = {"depths": (1, 1), "dims": (16, 24), "num_classes": 3}
IMAGES = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))


class Calls(TorchDispatchMode):
    """The names of all operators of this project that run within, and how often."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        namespace, _, name = func._schema.name.partition("::")
        if namespace in ("ssm_core", "tree_ssm"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))

    def of_ends(self):
        return [name for name in self.names if name.endswith(("readout", "gated_norm"))]


def network(**options):
    torch.manual_seed(0)
    model = fuse_norms(MambaTreeV(**SIZES, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def layers_one_by_one(model):
    """Look at what the scans return, so that the norm and the gate come after them."""
    for stage in model.stages:
        for block in stage.blocks:
            block.mixer.scan.register_forward_hook(lambda module, args, result: None)
    return model


def run(model, **autocast):
    with Calls() as calls, torch.autocast("cpu", enabled=bool(autocast), **autocast):
        y = model(IMAGES)
    gradients = torch.autograd.grad(y.float().square().sum(), list(model.parameters()))
    return calls.of_ends(), y, gradients


@pytest.mark.parametrize("autocast", [{}, {"dtype": torch.bfloat16}], ids=["float32", "autocast"])
def test_one_operator_computes_what_two_do(autocast):
    names, y, gradients = run(network(), **autocast)
    expected_names, expected, expected_gradients = run(layers_one_by_one(network()), **autocast)
    assert names == ["gated_state_readout"] * 2
    assert expected_names == ["state_readout", "gated_norm"] * 2
    assert torch.equal(y, expected)
    for found, of in zip(gradients, expected_gradients, strict=True):
        assert_close(found, of, tolerance=1e-6)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_compiled_network_computes_the_same(training):
    model, names = fuse_convolutions(network(drop_path_rate=0.0)).train(training), set()

    def keep(graph, inputs):
        names.update(str(node.target) for node in graph.graph.nodes)
        return graph

    with torch.set_grad_enabled(training):
        expected = model(IMAGES)
        torch._dynamo.reset()
        assert_close(torch.compile(model, fullgraph=True, backend=keep)(IMAGES), expected)
    assert any("gated_state_readout" in name for name in names)
    assert not any("gated_norm" in name for name in names)


def test_several_states_are_normed_and_gated_after_the_scan():
    names, y, _ = run(network(d_state=2))
    assert names == ["gated_norm"] * 2
    assert torch.equal(y, run(layers_one_by_one(network(d_state=2)))[1])


def test_small_maps_take_pytorchs_norm():
    torch.manual_seed(0)
    names, _, _ = run(MambaTreeV(**SIZES).eval())
    assert names == ["state_readout"] * 2


def test_hooks_of_a_scan_see_the_map_before_the_norm():
    model, seen = network(), []
    model.stages[0].blocks[0].mixer.scan.register_forward_hook(lambda module, args, result: seen.append((args, result)))
    model.stages[0].blocks[0].mixer.out_norm.register_forward_pre_hook(lambda module, args: seen.append(args))
    model(IMAGES)
    (given, (y, _)), (before_norm,) = seen
    assert len(given) == 2
    assert torch.equal(y, before_norm)


@pytest.mark.parametrize("layer", ["scan", "out_norm"])
def test_hooks_get_the_maps_that_they_got_before(layer):
    model, seen = network(), []
    mixer = model.stages[0].blocks[0].mixer
    mixer.get_submodule(layer).register_forward_hook(lambda module, args, result: seen.append((args, result)))
    names, y, _ = run(model)
    assert names == ["state_readout", *(["gated_norm"] if layer == "scan" else []), "gated_state_readout"]
    assert_close(y, run(network())[1], tolerance=1e-5)
    ((args, result),) = seen
    assert args[0].shape == (2, 8, 10, 32)
    assert (result[0] if layer == "scan" else result).shape == (2, 8, 10, 32)


class Halved(TreeScan):
    """A scan with a ``forward`` of its own."""

    def forward(self, x, previous=None):
        y, grown = super().forward(x, previous)
        return y / 2, grown


def test_a_derived_scan_is_called_as_before():
    model = network()
    for stage in model.stages:
        stage.blocks[0].mixer.scan.__class__ = Halved
    assert run(model)[0] == ["state_readout", "gated_norm"] * 2


def test_a_gate_of_another_type_is_applied_after_the_readout():
    norm, x = FusedLayerNorm(8, before_product=True), torch.randn(2, 3, 8)
    assert norm.gates_in_one_type(x, x)
    assert not norm.gates_in_one_type(x, x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert norm.gates_in_one_type(x.bfloat16(), x.bfloat16())
        assert not norm.gates_in_one_type(x, x)
