"""Tests of whole models on the GPU: gradients as on the CPU in float64, compilation, graphs, training in half types."""

import copy

import pytest
import torch
import torch.nn.functional as F

from quadtree_ssm import QuadMamba
from ssm_core.layers import record_scans
from ssm_core.testing import assert_close
from tree_ssm import MambaTreeV

pytestmark = pytest.mark.gpu
FAMILIES = [QuadMamba, MambaTreeV]
# The model has both scans of QuadMamba and maps of three sizes. The image's sides are no powers of two.
SIZES = {"depths": (2, 1, 1), "dims": (16, 32, 48), "num_classes": 5}
IMAGE = (3, 3, 72, 56)


@pytest.fixture(autouse=True)
def exact_float32():
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [f.allow_tf32 for f in flags]
    for f in flags:
        f.allow_tf32 = False
    yield
    for f, value in zip(flags, before, strict=True):
        f.allow_tf32 = value


def lively(model):
    """Give linear maps unit gain. At the models' own initialisation some gradients are as small as rounding."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return model


def loss_and_gradients(model, images):
    with record_scans(model) as chosen:
        logits = model(images)
    logits.square().sum().backward()
    discrete = [(c.tree.parent if hasattr(c, "tree") else c.choice).cpu() for c in chosen.values() if c is not None]
    return logits, {name: p.grad for name, p in model.named_parameters()}, discrete


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_cpu_in_float64(family, dtype, tolerance):
    torch.manual_seed(0)
    model = lively(family(**SIZES)).double().eval()
    images = torch.randn(IMAGE, dtype=torch.float64)
    on_gpu = copy.deepcopy(model).to("cuda", dtype)
    expected, expected_gradients, expected_choices = loss_and_gradients(model, images)
    actual, gradients, choices = loss_and_gradients(on_gpu, images.to("cuda", dtype))
    assert expected_choices
    assert all(torch.equal(a, b) for a, b in zip(choices, expected_choices, strict=True))
    assert_close(actual, expected, "logits", tolerance)
    for name, gradient in expected_gradients.items():
        assert_close(gradients[name], gradient, name, tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_whole_equals_eager_in_training_and_inference(family):
    torch.manual_seed(0)
    torch.compiler.reset()
    model = lively(family(**SIZES)).cuda().eval()  # training would draw noise and drop samples
    images = torch.randn(IMAGE, device="cuda")
    compiled = torch.compile(model, fullgraph=True)
    logits, gradients, _ = loss_and_gradients(model, images)
    model.zero_grad()
    traced = compiled(images)
    traced.square().sum().backward()
    assert_close(traced, logits, "logits", 1e-5)
    for name, p in model.named_parameters():
        assert_close(p.grad, gradients[name], name, 1e-4)
    with torch.inference_mode():
        assert_close(compiled(images), logits, "logits of inference", 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_is_captured_in_a_graph(family):
    torch.manual_seed(0)
    model = family(**SIZES).cuda().eval()
    images = torch.randn(IMAGE, device="cuda")

    def step():
        model.zero_grad(set_to_none=False)
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(images)
        logits.float().square().sum().backward()
        return logits

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = step()
    images.copy_(torch.randn(IMAGE))
    graph.replay()
    torch.cuda.synchronize()
    replayed = captured.clone(), {name: p.grad.clone() for name, p in model.named_parameters()}
    eager = step()
    assert torch.equal(replayed[0], eager)
    for name, p in model.named_parameters():
        assert_close(replayed[1][name], p.grad, name, 1e-3)  # cuDNN's weight gradients vary


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_thousand_steps_in_half_types_stay_finite_and_learn(family, dtype):
    torch.manual_seed(0)
    model = family((1, 1, 1), (16, 32, 48), num_classes=4).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    images = torch.randn(256, 3, 32, 32, device="cuda")
    labels = torch.randint(4, (256,), device="cuda")
    losses = []
    for i in range(1000):
        batch = slice(i % 8 * 32, i % 8 * 32 + 32)
        with torch.autocast("cuda", dtype):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.detach())
    losses = torch.stack(losses)
    assert losses.isfinite().all()
    assert all(p.isfinite().all() for p in model.parameters())
    assert losses[-100:].mean() < 0.5 * losses[:100].mean()
