"""Tests of the stem's first half without a GPU: formulas of its gradients, shapes, errors, and the stem around it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ssm_core.layers import convolution, fuse_mlps, fuse_norms
from ssm_core.layers.convolution import Stem
from ssm_core.ops import conv_norm_gelu
from ssm_core.ops.conv_norm_gelu.derivatives import conv_norm_gelu_backward_composite

NAMES = ("weight", "bias", "norm_weight", "norm_bias")


def inputs_of(batch, height, width, channels=24, dtype=torch.float64):
    generator = torch.Generator().manual_seed(height * width + channels)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    norm_weight = 1 + 0.3 * draw(channels)
    return draw(batch, 3, height, width), 0.2 * draw(channels, 3, 3, 3), draw(channels), norm_weight, draw(channels)


def layers_of(images, weight, bias, norm_weight, norm_bias, eps=1e-6):
    conv, norm = nn.Conv2d(3, len(weight), 3, 2, 1), nn.LayerNorm(len(weight), eps)
    parameters = {"weight": weight, "bias": bias}
    x = torch.func.functional_call(conv, parameters, (images,)).permute(0, 2, 3, 1)
    return F.gelu(torch.func.functional_call(norm, {"weight": norm_weight, "bias": norm_bias}, (x,)))


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47), (1, 1), (2, 5)])
def test_is_that_of_the_layers(height, width):
    inputs = inputs_of(2, height, width)
    y = conv_norm_gelu(*inputs)
    assert y.shape == (2, (height + 1) // 2, (width + 1) // 2, 24)
    torch.testing.assert_close(y, layers_of(*inputs), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("batch", "height", "width"), [(2, 16, 24), (1, 17, 9), (3, 1, 1), (0, 8, 8)])
def test_the_formulas_of_the_gradients(batch, height, width):
    images, *parameters = inputs_of(batch, height, width)
    leaves = [parameter.requires_grad_() for parameter in parameters]
    y = layers_of(images, *leaves)
    grad_y = torch.randn(y.shape, dtype=y.dtype)
    expected = torch.autograd.grad(y, leaves, grad_y)
    found = conv_norm_gelu_backward_composite((True,) * 4, grad_y, images, *leaves, 1e-6)
    for name, one, other in zip(NAMES, found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-9, msg=name)


def test_the_formulas_have_derivatives():
    images, *parameters = inputs_of(1, 5, 4, channels=4)
    grad_y = torch.randn(1, 3, 2, 4, dtype=torch.float64)
    given = [x.requires_grad_() for x in (grad_y, images, *parameters)]
    assert torch.autograd.gradcheck(lambda *x: conv_norm_gelu_backward_composite((True,) * 4, *x, 1e-6), given)


def test_shapes_and_work_are_known_without_computing():
    given = [x.to("meta") for x in inputs_of(2, 33, 46, 40, torch.float32)]
    given[1] = given[1].bfloat16()
    with FlopCounterMode(display=False) as counter:
        y = torch.ops.ssm_core.conv_norm_gelu(*given, 1e-6)
    assert (y.shape, y.dtype) == ((2, 17, 23, 40), torch.bfloat16)
    with FlopCounterMode(display=False) as of_layers:
        F.conv2d(given[0], given[1].float(), stride=2, padding=1)
    assert counter.get_total_flops() == of_layers.get_total_flops() == 2 * 2 * 17 * 23 * 40 * 27
    gradients = torch.ops.ssm_core.conv_norm_gelu_backward(y, *given, 1e-6)
    assert [(tuple(g.shape), g.dtype) for g in gradients] == [(tuple(x.shape), torch.float32) for x in given[1:]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(images=torch.zeros(2, 4, 8, 8)), r"weight must be \[C, K, I, J\] with .*K = 4"),
        (dict(images=torch.zeros(3, 8, 8)), r"images must be \[B, K, H, W\], got \(3, 8, 8\)"),
        (dict(weight=torch.zeros(24, 3, 5, 5)), r"weight must be \[C, 3, 3, 3\], got \(24, 3, 5, 5\)"),
        (dict(norm_bias=torch.zeros(23)), r"norm_bias must be \[C\] with C = 24, got \(23,\)"),
        (dict(images=torch.zeros(2, 3, 8, 8, dtype=torch.float16)), "images must be float32 or torch.float32"),
        (dict(images=torch.zeros(2, 3, 8, 8, dtype=torch.complex64)), "images must be real"),
        (dict(backend="cuda"), "needs tensors on a GPU|cuda"),
        (dict(backend="fast"), "backend"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    names = ("images", *NAMES)
    given = dict(zip(names, inputs_of(2, 8, 8, dtype=torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=words):
        conv_norm_gelu(**given)


@pytest.fixture
def asked(monkeypatch):
    """The numbers of channels for which a stem asks whether there is a kernel. Its images pass for images on a GPU."""
    channels = []

    def no_kernel(images, dtype, count):
        channels.append(count)
        return False

    monkeypatch.setattr(convolution, "has_conv_norm_gelu_kernel", no_kernel)
    monkeypatch.setattr(convolution, "_window_dtype", lambda images, conv: images.dtype)
    return channels


def stem_of(dim=48):
    return fuse_norms(Stem(3, dim, 1e-6), always=False)


def test_a_stem_asks_for_a_kernel_of_its_width(asked):
    stem, images = stem_of(), torch.randn(1, 3, 32, 32)
    expected = stem(images)
    assert asked == [24]
    torch.testing.assert_close(fuse_mlps(stem, fused=False)(images), expected)
    assert asked == [24]


def hook(stem):
    stem.norm1.register_forward_hook(lambda *_: None)


def activate_otherwise(stem):
    stem.act = nn.ReLU()


def norm_otherwise(stem):
    stem.norm1 = nn.LayerNorm(24)


def leave_out_the_bias(stem):
    stem.conv1.bias = None


@pytest.mark.parametrize("change", [hook, activate_otherwise, norm_otherwise, leave_out_the_bias])
def test_changed_layers_are_called_as_they_are(asked, change):
    stem = stem_of()
    change(stem)
    stem(torch.randn(1, 3, 32, 32))
    assert not asked


def test_images_that_need_a_gradient_take_the_layers(asked):
    stem = stem_of()
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    stem(images).sum().backward()
    assert not asked
    assert images.grad.any()
    with torch.no_grad():
        stem(images)
    assert asked == [24]
