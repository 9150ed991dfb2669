"""torch.compile traces the forward and backward passes of both families without a graph break."""

import operator

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd

from quadtree_ssm import QuadMamba
from ssm_core.testing import assert_close
from tree_ssm import MambaTreeV

CASES = {
    "both scans of QuadMamba, maps": lambda: QuadMamba((2, 1, 1), (16, 16, 16), out_indices=(0, 2)),
    "released order, logits": lambda: QuadMamba((1, 1), (16, 16), token_order="released", num_classes=3),
    "MambaTreeV, shared trees": lambda: MambaTreeV((2, 1), (16, 16), tree_sharing="stage", num_classes=3),
}


@pytest.mark.parametrize("case", CASES)
def test_compiled_equals_eager(case):
    torch.manual_seed(0)
    torch.compiler.reset()
    model = CASES[case]().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 32, 48)
    results = []
    for run in (model, compiled):
        model.zero_grad()
        outputs = run(x)
        outputs = torch.cat([m.flatten() for m in outputs]) if isinstance(outputs, list) else outputs
        outputs.square().sum().backward()
        results.append((outputs, {name: p.grad for name, p in model.named_parameters()}))
    (eager, eager_grads), (traced, traced_grads) = results
    assert_close(traced, eager, "outputs")
    for name, gradient in eager_grads.items():
        assert_close(traced_grads[name], gradient, name, tolerance=1e-5)


@pytest.mark.parametrize("family", [QuadMamba, MambaTreeV])
def test_compiled_training_step_with_checkpointing(family):
    torch.manual_seed(0)
    torch.compiler.reset()
    model = family((1, 1), (16, 16), num_classes=3, drop_path_rate=0.5)
    model.set_grad_checkpointing()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    y = compiled(torch.randn(4, 3, 32, 32))
    y.square().sum().backward()
    assert y.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.skipif(torch.__version__ < (2, 13), reason="older versions of torch keep a view that a checkpoint gives")
def test_a_compiled_training_step_copies_no_step_sizes():
    """The backward pass of a scan gets a view of what the product gave, and returns a gradient that products read.

    What is kept for the backward pass must not have four axes: TorchInductor would copy it to another memory format.
    """
    torch.manual_seed(0)
    torch.compiler.reset()
    graphs = []

    def keep(graph, _):
        graphs.append(graph.graph)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep, partition_fn=min_cut_rematerialization_partition)
    model = torch.compile(QuadMamba((1, 1, 1), (16, 24, 32), num_classes=3), fullgraph=True, backend=backend)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    _, backward = graphs
    scans = [n for n in backward.nodes if n.target is torch.ops.ssm_core.selective_scan_backward.default]
    assert len(scans) == 3
    for scan in scans:
        delta = scan.args[3]
        kept = delta.args[0]
        assert delta.target is torch.ops.aten.view.default
        assert kept.op == "placeholder"
        assert kept.meta["val"].dim() == 3
        (gradient,) = (user for user in scan.users if user.target is operator.getitem and user.args[1] == 1)
        (view,) = gradient.users
        assert view.target is torch.ops.aten.view.default
        assert {user.target for user in view.users} == {torch.ops.aten.bmm.default}


def test_compiled_gradients_of_torch_func():
    torch.manual_seed(0)
    torch.compiler.reset()
    model = QuadMamba((1, 1, 1), (16, 16, 16), num_classes=3).eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    x = torch.randn(2, 3, 32, 32)

    def gradients(parameters, x):
        return torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)).square().sum())(parameters)

    traced = torch.compile(gradients, fullgraph=True, backend="aot_eager")(parameters, x)
    for name, gradient in gradients(parameters, x).items():
        assert_close(traced[name], gradient, name, tolerance=1e-5)
