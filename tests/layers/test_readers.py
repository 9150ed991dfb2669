"""Tests of the gradients of a scan's readers, which a compiled training step hands to the convolution one by one."""

import copy

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from quadtree_ssm import QuadMamba
from quadtree_ssm.modules import QuadtreeScan
from ssm_core.layers import fuse_convolutions
from ssm_core.testing import assert_close
from tree_ssm import MambaTreeV
from tree_ssm.modules import TreeScan

SIZES = {"depths": (2, 1), "dims": (8, 16), "num_classes": 5}
NETWORKS = {
    "quadmamba": lambda: QuadMamba(drop_path_rate=0.0, linear_std=0.1, **SIZES),
    "quadmamba-fixed": lambda: QuadMamba(drop_path_rate=0.0, linear_std=0.1, choice=1, **SIZES),
    "quadmamba-raster": lambda: QuadMamba(drop_path_rate=0.0, linear_std=0.1, quadtree_levels=0, **SIZES),
    "mambatree": lambda: MambaTreeV(drop_path_rate=0.0, linear_std=0.1, **SIZES),
    "mambatree-states": lambda: MambaTreeV(drop_path_rate=0.0, linear_std=0.1, d_state=2, **SIZES),
}


class Counting:
    """A compiler that counts the calls of an operator in the graphs of the backward pass."""

    def __init__(self, operator):
        self.operator, self.calls = operator, 0

    def __call__(self, graph, examples):
        return aot_autograd(fw_compiler=self._run, bw_compiler=self._count)(graph, examples)

    def _run(self, graph, examples):
        return make_boxed_func(graph.forward)

    def _count(self, graph, examples):
        self.calls += sum(node.target is self.operator for node in graph.graph.nodes)
        return self._run(graph, examples)


def gradients(model, x):
    torch.manual_seed(1)
    model(x).square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_compiled_step_hands_on_the_gradient_of_every_reader(name):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = fuse_convolutions(NETWORKS[name]())
    compiled = copy.deepcopy(model)
    x = torch.randn(2, 3, 32, 32)
    compiler = Counting(torch.ops.ssm_core.depthwise_conv_sum_backward.default)
    found = gradients(torch.compile(compiled, backend=compiler, fullgraph=True), x)
    assert compiler.calls == sum(SIZES["depths"])
    for key, expected in gradients(model, x).items():
        assert_close(found[f"_orig_mod.{key}"], expected, key, tolerance=1e-4)


def taken_by(model, scan, monkeypatch):
    """What the scans of a network are called with in a compiled training step."""
    torch._dynamo.reset()
    taken = []
    original = scan.forward

    def forward(self, x, previous=None):
        taken.append(type(x))
        return original(self, x, previous)

    monkeypatch.setattr(scan, "forward", forward)
    torch.compile(fuse_convolutions(model), backend="aot_eager")(torch.randn(2, 3, 32, 32)).sum().backward()
    return set(taken)


@pytest.mark.parametrize(("name", "scan"), [("quadmamba", QuadtreeScan), ("mambatree", TreeScan)])
def test_a_forward_of_a_users_own_gets_one_map(name, scan, monkeypatch):
    """It is not marked by ``reads_apart``."""
    assert taken_by(NETWORKS[name](), scan, monkeypatch) == {Tensor}


def test_a_hook_of_a_scan_gets_one_map():
    torch._dynamo.reset()
    taken = []
    model = fuse_convolutions(NETWORKS["mambatree"]())
    for block in model.stages[0].blocks:
        block.mixer.scan.register_forward_pre_hook(lambda _, arguments: taken.append(type(arguments[0])))
    torch.compile(model, backend="aot_eager")(torch.randn(2, 3, 32, 32)).sum().backward()
    assert set(taken) == {Tensor}
