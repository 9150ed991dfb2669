"""Networks with fused norms compute what they compute without: results, gradients, random choices, precision."""

import copy

import pytest
import timm
import torch
from oracles.fused_networks import (
    assert_low_precision_is_as_good,
    assert_same,
    assert_same_with_checkpointing,
    assert_stage_compiles,
)
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from quadtree_ssm import QuadMamba
from ssm_core.layers import Block, Downsample, FusedLayerNorm, Pending, fuse_norms, record_scans
from ssm_core.testing import assert_close
from tree_ssm import MambaTreeV

SIZES = {"depths": (2, 1), "dims": (16, 24), "num_classes": 3}
MODELS = {
    "quadmamba": lambda **more: QuadMamba(drop_path_rate=0.5, **SIZES, **more),
    "quadmamba, maps": lambda **more: QuadMamba((1, 1, 2), (16, 16, 16), out_indices=(0, 2), **more),
    "mambatree": lambda **more: MambaTreeV(drop_path_rate=0.5, **SIZES, **more),
    "mambatree, layer scale": lambda **more: MambaTreeV(layer_scale=0.5, **SIZES, **more),
}


def pair(name):
    """A network with random parameters, and the same with fused norms."""
    torch.manual_seed(0)
    plain, fused = MODELS[name](fused=False), fuse_norms(MODELS[name](fused=False))
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(0.1 * torch.randn_like(p))
    fused.load_state_dict(plain.state_dict())
    return plain, fused


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", MODELS)
def test_fused_norms_change_no_result(name, training):
    plain, fused = (model.double().train(training) for model in pair(name))
    assert list(plain.state_dict()) == list(fused.state_dict())
    assert any(isinstance(m, FusedLayerNorm) for m in fused.modules())
    assert not any(isinstance(m, FusedLayerNorm) for m in plain.modules())
    assert_same(plain, fused, torch.randn(4, 3, 32, 40, dtype=torch.float64))


@pytest.mark.parametrize("name", ["quadmamba", "mambatree"])
def test_low_precision_is_as_good(name):
    assert_low_precision_is_as_good(*pair(name))


def test_checkpointing_and_frozen_stages():
    assert_same_with_checkpointing(*pair("quadmamba"))
    frozen = fuse_norms(MODELS["quadmamba"](frozen_stages=1))
    assert not any(p.requires_grad for p in frozen.stages[0].parameters())
    assert not frozen.train().stages[0].training


def test_stages_compile():
    torch.manual_seed(0)
    assert_stage_compiles(fuse_norms(MambaTreeV((2,), (16,), num_classes=3)).stages[0])


def saved_maps(network, x, half=True):
    """What a compiled forward pass keeps for the backward pass, and all gradients."""
    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager_decomp_partition")
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y = compiled(x)
    saved = y.grad_fn.saved_tensors
    y.float().square().sum().backward()
    return saved, [p.grad for p in network.parameters()]


def forms(maps):
    return [(tuple(v.shape), v.dtype) for v in maps]


def test_compiled_networks_compute_the_norms_before_the_stream_again():
    torch.manual_seed(0)
    network = nn.Sequential(Downsample(8, 16, True, 1e-6), Block(16, nn.Identity(), 2, 0, None, 1e-6).norm1)
    network.append(nn.Linear(16, 8))
    fused = fuse_norms(copy.deepcopy(network))
    fused[1].before_product = True
    x = torch.randn(2, 12, 12, 8)
    stream = (2, 36, 16), torch.float32
    found, gradients = saved_maps(fused, x)
    assert stream not in forms(found)
    assert ((2, 6, 6, 16), torch.float32) not in forms(found)
    fused[0].norm.recomputed = False
    fused.zero_grad()
    kept, expected = saved_maps(fused, x)
    assert stream in forms(kept)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@pytest.mark.parametrize("name", ["quadmamba", "mambatree"])
def test_compiled_networks_keep_no_more_than_with_the_norms_of_pytorch(name):
    sizes = []
    for network in pair(name):
        saved, _ = saved_maps(network.train(), torch.randn(2, 3, 64, 64), half=False)
        sizes.append(sum(v.numel() * v.element_size() for v in saved))
    assert sizes[1] <= sizes[0]


def test_recomputed_norms_under_torch_func_and_checkpoints():
    torch.manual_seed(0)
    norm = FusedLayerNorm(8, recomputed=True)
    x = torch.randn(2, 3, 8)

    def gradient(x):
        return torch.func.grad(lambda x: norm(x).sin().sum())(x)

    expected = gradient(x)
    torch.compiler.reset()
    assert_close(torch.compile(gradient, fullgraph=True, backend="aot_eager")(x), expected)
    torch.compiler.reset()
    x.requires_grad_()
    within = torch.compile(lambda x: checkpoint(norm, x, use_reentrant=False), fullgraph=True, backend="aot_eager")
    assert_close(torch.autograd.grad(within(x).sin().sum(), x)[0], expected)


def test_scans_are_recorded():
    _, fused = pair("quadmamba")
    with torch.no_grad(), record_scans(fused) as record:
        fused(torch.randn(2, 3, 32, 32))
    assert list(record) == [
        "stages.0.blocks.0.mixer.scan",
        "stages.0.blocks.1.mixer.scan",
        "stages.1.blocks.0.mixer.scan",
    ]


@pytest.mark.parametrize("name", ["quadmamba", "mambatree"])
def test_graphs_of_torch_fx_hold_them(name):
    _, fused = pair(name)
    graph = fx.symbolic_trace(fused.eval())
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        assert_close(graph(images), fused(images), tolerance=1e-5)  # norms and sums are apart in graphs


def test_any_network_can_have_them():
    torch.manual_seed(0)
    plain = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=32, num_heads=(1, 2, 4, 8))
    fused = fuse_norms(copy.deepcopy(plain)).eval()
    plain.eval()
    assert sum(isinstance(m, FusedLayerNorm) for m in fused.modules()) == 13
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert_close(fused(images), plain(images), tolerance=1e-5)


def test_other_norms_stay_and_parameters_are_shared():
    norms = [
        nn.LayerNorm((4, 8)),
        nn.LayerNorm(8, elementwise_affine=False),
        nn.LayerNorm(8, bias=False),
        nn.LayerNorm(8),
    ]
    network = fuse_norms(nn.Sequential(*norms))
    assert [isinstance(m, FusedLayerNorm) for m in network] == [False, False, False, True]
    assert network[3].weight is norms[3].weight
    assert network[3].bias is norms[3].bias
    assert network[3].eps == 1e-5


def test_the_sum_is_left_to_the_next_norm():
    norm = FusedLayerNorm(8, 1e-5, before_product=True)
    stream, branch = torch.randn(2, 3, 5, 8)
    normed, total = norm.add(Pending(stream, branch, torch.tensor([0.0, 2.0, 1.0])))
    assert torch.equal(total[0], stream[0])
    assert_close(total[1], stream[1] + 2 * branch[1])
    assert_close(normed, norm(total))
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(stream).dtype == torch.bfloat16
        assert norm(stream.double()).dtype == torch.float64
        assert FusedLayerNorm(8)(stream.bfloat16()).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["quadmamba", "mambatree"])
def test_on_a_gpu(name):
    """The same results in float32, and a compiled step of training under autocast."""
    plain, fused = (model.cuda().eval() for model in pair(name))
    images = torch.randn(4, 3, 64, 64, device="cuda")
    with torch.no_grad():
        assert_close(fused(images), plain(images), tolerance=1e-4)
    step = torch.compile(fused.train(), fullgraph=True)
    with torch.autocast("cuda", torch.bfloat16):
        loss = step(images).float().square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fused.parameters())
