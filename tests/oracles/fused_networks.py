"""A network beside the same one with operators that fuse several of its layers."""

import copy

import torch

from ssm_core.testing import assert_close, relative_error


def run(model, images, dtype=None):
    """The outputs beside each other, and the gradient of every parameter."""
    torch.manual_seed(1)
    model.zero_grad()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        outputs = model(images)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    flat = torch.cat([y.double().flatten() for y in outputs])
    flat.sin().sum().backward()
    return flat.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(plain, fused, images):
    """Results and gradients in float64."""
    (expected, gradients), (actual, found) = run(plain, images), run(fused, images)
    assert_close(actual, expected, tolerance=1e-9)
    assert set(found) == set(gradients)
    for of, gradient in gradients.items():
        # That of a shift before a batch norm is zero.
        torch.testing.assert_close(found[of], gradient, rtol=1e-7, atol=1e-10, msg=of)


def assert_low_precision_is_as_good(plain, fused):
    """Both are compared with float64 on the same trees and orders, which low precision could change."""
    images = torch.randn(8, 3, 32, 32)
    exact, _ = run(copy.deepcopy(plain.eval()).double(), images.double())
    of_plain, of_fused = (relative_error(run(m.eval(), images, torch.bfloat16)[0], exact) for m in (plain, fused))
    assert of_fused <= 2 * of_plain + torch.finfo(torch.bfloat16).eps


def assert_same_with_checkpointing(plain, fused):
    """Results and gradients in training, where blocks are computed again."""
    for model in (plain, fused):
        model.train().set_grad_checkpointing()
    images = torch.randn(2, 3, 32, 32)
    (expected, gradients), (actual, found) = run(plain, images), run(fused, images)
    assert_close(actual, expected, tolerance=1e-5)
    for of, gradient in gradients.items():
        assert_close(found[of], gradient, of, tolerance=1e-3)


def assert_stage_compiles(stage):
    """A stage of 16 channels under bfloat16 autocast."""
    torch.compiler.reset()
    compiled = torch.compile(stage.eval(), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 8, 8, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert_close(compiled(x), stage(x))
