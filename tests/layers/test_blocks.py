"""Compares the stem, the downsampling, the mixer, the block and the head with their formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ssm_core.errors import InputError
from ssm_core.layers import Block, ClassifierHead, Downsample, ScanMixer, SelectiveSSM, Stem
from ssm_core.layers.convolution import check_images, multiply_windows
from ssm_core.testing import assert_close


class Doubling(SelectiveSSM):
    """A scan simple enough to write down."""

    def forward(self, x, previous=None):
        return 2 * x, None


def perturb(module):
    """Move norms and biases away from their neutral values."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def layer_norm(x, norm):
    return F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.eps)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (35, 129)], ids=str)
def test_stem_and_downsampling(size):
    stem, down = perturb(Stem(3, 16, 1e-5)), perturb(Downsample(16, 24, bias=False, norm_eps=1e-6))
    images = torch.randn(2, 3, *size)
    x = stem(images)
    assert x.shape == (2, -(-size[0] // 4), -(-size[1] // 4), 16)
    y = F.conv2d(images, stem.conv1.weight, stem.conv1.bias, stride=2, padding=1).permute(0, 2, 3, 1)
    y = F.gelu(layer_norm(y, stem.norm1)).permute(0, 3, 1, 2)
    y = F.conv2d(y, stem.conv2.weight, stem.conv2.bias, stride=2, padding=1).permute(0, 2, 3, 1)
    assert_close(x, layer_norm(y, stem.norm2), "stem")
    z = F.conv2d(x.permute(0, 3, 1, 2), down.conv.weight, None, stride=2, padding=1).permute(0, 2, 3, 1)
    assert_close(down(x), layer_norm(z, down.norm), "downsampling")
    assert down(x).shape[1:3] == tuple(-(-n // 8) for n in size)
    assert down(x).is_contiguous()
    assert down(x[:, :, :1]).shape == (2, -(-x.shape[1] // 2), 1, 24)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (35, 1)], ids=str)
@pytest.mark.parametrize(("channels", "bias"), [(1, True), (3, False), (3, True), (5, True)])
def test_windows_times_weights_are_the_convolution(size, channels, bias):
    inputs = [torch.randn(2, channels, *size), torch.randn(6, channels, 3, 3), torch.randn(6) if bias else None]
    inputs = [None if x is None else x.double().requires_grad_() for x in inputs]
    result = multiply_windows(*inputs)
    assert result.is_contiguous()
    expected = F.conv2d(*inputs, stride=2, padding=1).permute(0, 2, 3, 1)
    assert_close(result, expected, "result")
    given = torch.randn_like(expected)
    there = [x for x in inputs if x is not None]
    for grad, other in zip(*(torch.autograd.grad(y, there, given) for y in (result, expected)), strict=True):
        assert_close(grad, other, "gradient")


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("conv_bias", [False, True])
def test_mixer(gated, conv_bias):
    mixer = perturb(ScanMixer(8, Doubling(16, 1, 1, 1), gated, conv_bias))
    x = torch.randn(2, 5, 3, 8)
    y, chosen = mixer(x)
    inner = (x @ mixer.in_proj.weight.T).permute(0, 3, 1, 2)
    inner = F.silu(F.conv2d(inner, mixer.conv.weight, mixer.conv.bias, padding=1, groups=16)).permute(0, 2, 3, 1)
    inner = layer_norm(2 * inner, mixer.out_norm)
    if gated:
        inner = inner * F.silu(x @ mixer.gate_proj.weight.T)
    assert_close(y, inner @ mixer.out_proj.weight.T)
    assert chosen is None
    assert (mixer.gate_proj is not None) == gated
    assert (mixer.conv.bias is not None) == conv_bias


@pytest.mark.parametrize("layer_scale", [None, 0.3])
def test_block(layer_scale):
    block = Block(8, ScanMixer(8, Doubling(16, 1, 1, 1), False, False), 4.0, 0.5, layer_scale, 1e-6).eval()
    x = torch.randn(2, 4, 4, 8)
    scale = 1.0 if layer_scale is None else layer_scale
    middle = x + scale * block.mixer(layer_norm(x, block.norm1))[0]
    hidden = F.gelu(block.mlp.fc1(layer_norm(middle, block.norm2)))
    assert hidden.shape[-1] == 32
    assert_close(block(x)[0], middle + scale * block.mlp.fc2(hidden))
    # Stochastic depth drops whole samples, and only in training.
    block.train().drop_path.drop_prob = 1.0
    assert torch.equal(block(x)[0], x)


def test_head_pools_what_it_transformed():
    head = ClassifierHead(nn.LayerNorm(8), 8, 5)
    x = torch.randn(2, 3, 4, 8)
    features = F.layer_norm(x, (8,)).mean((1, 2))
    assert_close(head(x, pre_logits=True), features)
    assert_close(head(x), head.fc(features))
    head.reset(0)
    assert_close(head(x), features)
    head.reset(0, "")
    assert_close(head(x), F.layer_norm(x, (8,)))
    head.reset(3)
    assert_close(head(x), head.fc(F.layer_norm(x, (8,))), "logits of every token")
    for pool, pooled in (
        ("avg", features),
        ("max", F.layer_norm(x, (8,)).amax((1, 2))),
        ("avgmax", (features + F.layer_norm(x, (8,)).amax((1, 2))) / 2),
        ("catavgmax", torch.cat([features, F.layer_norm(x, (8,)).amax((1, 2))], dim=1)),
    ):
        head.reset(3, pool)
        assert_close(head(x, pre_logits=True), pooled, pool)
        assert head(x).shape == (2, 3)
        assert head.num_features == pooled.shape[1]
    with pytest.raises(ValueError, match="global_pool must be"):
        head.reset(3, "mean")


def test_stem_makes_colours_grey_as_pillow_does():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32) / 255
    colours = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    mean, std = 0.31, 0.35  # equal for all channels, as a model of one channel has them
    taken = check_images((colours - mean) / std, 1, True, "it")
    assert taken.shape == (1, 1, 40, 48)
    assert (taken * std + mean - torch.from_numpy(grey)).abs().max() <= 0.51 / 255  # Pillow rounds
    again = torch.randn(2, 1, 32, 32)
    assert torch.equal(check_images(again.expand(-1, 3, -1, -1), 1, True, "it"), again)
    stem = Stem(1, 8, 1e-5, grey_from_colours=True)
    assert torch.equal(stem(again.expand(-1, 3, -1, -1)), stem(again))
    for channels, allowed in ((1, False), (2, True)):
        with pytest.raises(InputError, match=rf"it takes images \[B, {channels}, H, W\]"):
            check_images(colours, channels, allowed, "it")
