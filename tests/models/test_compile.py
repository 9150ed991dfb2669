"""torch.compile traces the forward and backward passes of both families without a graph break."""

import pytest
import torch

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
