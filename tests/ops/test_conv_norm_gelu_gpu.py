"""Tests of the stem's kernels against float64, for every width, with the gradients, and twice."""

import pytest
import torch
import torch.nn.functional as F

from quadtree_ssm import QuadMamba
from ssm_core.layers import fuse_mlps, fuse_norms
from ssm_core.layers.convolution import Stem
from ssm_core.ops import conv_norm_gelu
from ssm_core.ops.conv_norm_gelu import CHANNELS
from ssm_core.testing import assert_as_good_as
from tree_ssm import MambaTreeV

pytestmark = pytest.mark.gpu
NAMES = ("weight", "bias", "norm_weight", "norm_bias")
HALF_TYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
SIZES = [(1, 224, 224), (3, 33, 47), (2, 1, 1), (1, 2, 5), (2, 40, 300), (1, 63, 128), (5, 16, 20)]


def inputs_of(batch, height, width, channels, dtype, image_dtype=torch.float32):
    generator = torch.Generator().manual_seed(height * width + channels)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).cuda()

    images = draw(batch, 3, height, width).to(image_dtype)
    weight = (0.2 * draw(channels, 3, 3, 3)).to(dtype)
    parameters = [weight, draw(channels), 1 + 0.3 * draw(channels), draw(channels)]
    grad_y = draw(batch, (height + 1) // 2, (width + 1) // 2, channels).to(dtype)
    return images, [parameter.requires_grad_() for parameter in parameters], grad_y


def layers(images, weight, bias, norm_weight, norm_bias):
    dtype = weight.dtype
    x = F.conv2d(images.to(dtype), weight, bias.to(dtype), stride=2, padding=1).permute(0, 2, 3, 1)
    return F.gelu(F.layer_norm(x, x.shape[-1:], norm_weight.to(dtype), norm_bias.to(dtype), 1e-6))


def kernel(*inputs):
    return conv_norm_gelu(*inputs, 1e-6, backend="cuda")


def results(function, images, parameters, grad_y):
    y = function(images, *parameters)
    found = dict(zip(NAMES, torch.autograd.grad(y, parameters, grad_y), strict=True))
    return {name: value.detach() for name, value in found.items()} | {"y": y.detach()}


def exact(images, parameters, grad_y, dtype):
    """The results in float64, of images that are rounded as the kernel rounds them."""
    wide = [parameter.detach().double().requires_grad_() for parameter in parameters]
    return results(layers, images.to(dtype).double(), wide, grad_y.double())


@HALF_TYPES
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_as_good_as_the_layers_with_every_gradient(size, channels, dtype):
    images, parameters, grad_y = inputs_of(*size, channels, dtype)
    found, again = (results(kernel, images, parameters, grad_y) for _ in range(2))
    same, expected = results(layers, images, parameters, grad_y), exact(images, parameters, grad_y, dtype)
    for name, value in found.items():
        assert torch.equal(value, again[name]), name
        assert value.dtype == same[name].dtype
        assert_as_good_as(value, same[name], expected[name], name)


@HALF_TYPES
def test_images_of_the_half_type_are_those_that_were_rounded(dtype):
    images, parameters, grad_y = inputs_of(2, 65, 130, 40, dtype)
    found = results(kernel, images.to(dtype), parameters, grad_y)
    for name, value in results(kernel, images.to(dtype).float(), parameters, grad_y).items():
        assert torch.equal(value, found[name]), name


def test_an_image_gets_what_it_gets_among_others():
    images, parameters, _ = inputs_of(9, 50, 66, 32, torch.bfloat16)
    with torch.no_grad():
        together = kernel(images, *parameters)
        for image, y in zip(images, together, strict=True):
            assert torch.equal(kernel(image[None], *parameters)[0], y)


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_images_and_gradients_in_any_place(offset):
    images, parameters, grad_y = inputs_of(2, 34, 64, 24, torch.float16)
    room = torch.zeros(images.numel() + offset, device="cuda")
    room[offset:] = images.flatten()
    moved = room[offset:].view(images.shape)
    expected = results(kernel, images, parameters, grad_y)
    turned = images.to(memory_format=torch.channels_last)
    strided = grad_y.transpose(1, 2).contiguous().transpose(1, 2)
    for given, gradient in ((moved, grad_y), (turned, grad_y), (images, strided)):
        for name, value in results(kernel, given, parameters, gradient).items():
            assert torch.equal(value, expected[name]), name


def test_an_expanded_gradient():
    images, parameters, _ = inputs_of(2, 32, 32, 48, torch.bfloat16)
    y = kernel(images, *parameters)
    one = torch.ones((), dtype=y.dtype, device="cuda")
    found = torch.autograd.grad(y, parameters, one.expand(y.shape), retain_graph=True)
    for value, other in zip(found, torch.autograd.grad(y, parameters, torch.ones_like(y)), strict=True):
        assert torch.equal(value, other)


def test_no_image():
    images, parameters, grad_y = inputs_of(0, 32, 32, 40, torch.bfloat16)
    found = results(kernel, images, parameters, grad_y)
    assert found["y"].shape == (0, 16, 16, 40)
    assert not any(found[name].any() for name in NAMES)


def test_what_is_no_number_stays_in_its_windows():
    images, parameters, _ = inputs_of(2, 64, 64, 40, torch.bfloat16)
    images[0, 1, 20, 31] = float("nan")
    with torch.no_grad():
        y = kernel(images, *parameters)
    bad = y.isnan().all(-1)
    assert bad.nonzero().tolist() == [[0, 10, 15], [0, 10, 16]]
    assert y[~bad].isfinite().all()


def test_the_gradient_of_the_images_and_second_derivatives():
    images, parameters, grad_y = inputs_of(1, 9, 8, 24, torch.float16)
    images.requires_grad_()
    (found,) = torch.autograd.grad(kernel(images, *parameters), images, grad_y)
    wide = [parameter.detach().double() for parameter in parameters]
    rounded = images.detach().half().double().requires_grad_()
    (expected,) = torch.autograd.grad(layers(rounded, *wide), rounded, grad_y.double())
    (same,) = torch.autograd.grad(layers(images, *parameters), images, grad_y)
    assert_as_good_as(found, same, expected, "images")
    first = torch.autograd.grad(kernel(images.detach(), *parameters), parameters[1], grad_y, create_graph=True)[0]
    (second,) = torch.autograd.grad(first.sum(), parameters[2])
    wide = [parameter.requires_grad_() for parameter in wide]
    of_layers = torch.autograd.grad(layers(rounded.detach(), *wide), wide[1], grad_y.double(), create_graph=True)[0]
    (wanted,) = torch.autograd.grad(of_layers.sum(), wide[2])
    torch.testing.assert_close(second.double(), wanted, rtol=1e-2, atol=1e-2)


def test_wrong_calls_of_the_operator_itself():
    images, parameters, grad_y = inputs_of(1, 16, 16, 40, torch.bfloat16)
    weight, *others = (parameter.detach() for parameter in parameters)
    call, back = torch.ops.ssm_core.conv_norm_gelu, torch.ops.ssm_core.conv_norm_gelu_backward
    with pytest.raises(RuntimeError, match="no kernel for 56 channels"):
        call(images, weight.new_zeros(56, 3, 3, 3), *(x.new_zeros(56) for x in others), 1e-6)
    with pytest.raises(RuntimeError, match="weights of float16 or bfloat16, got Float"):
        call(images, weight.float(), *others, 1e-6)
    with pytest.raises(RuntimeError, match="images of float32 or of the weight's type"):
        call(images.half(), weight, *others, 1e-6)
    with pytest.raises(RuntimeError, match="images must have shape"):
        call(images[:, :1].contiguous(), weight, *others, 1e-6)
    with pytest.raises(RuntimeError, match="images must be contiguous"):
        call(images.mT, weight, *others, 1e-6)
    with pytest.raises(RuntimeError, match="grad_y must have shape"):
        back(grad_y[:, :1].contiguous(), images, weight, *others, 1e-6)
    with pytest.raises(ValueError, match="24, 32, 40, 48, 64 channels"):
        conv_norm_gelu(images, weight.new_zeros(56, 3, 3, 3), *(x.new_zeros(56) for x in others), backend="cuda")


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_stem_trains_as_with_pytorchs_layers(compiled):
    torch.manual_seed(0)
    fused = fuse_norms(Stem(3, 80, 1e-6), always=False).cuda()
    plain, wide = (Stem(3, 80, 1e-6).cuda() for _ in range(2))
    fuse_mlps(plain, fused=False)
    for other in (plain, wide):
        other.load_state_dict(fused.state_dict())
    wide.double()
    images = torch.randn(2, 3, 96, 130, device="cuda")
    grad_y = torch.randn(2, 24, 33, 80, device="cuda")
    calls = []
    for stem in (fused, plain, wide):
        run = torch.compile(stem, fullgraph=True) if compiled and stem is not wide else stem
        with torch.autocast("cuda", torch.bfloat16, enabled=stem is not wide):
            y = run(images.double() if stem is wide else images)
        y.backward(grad_y.to(y.dtype))
        calls.append({"y": y.detach(), **{name: p.grad for name, p in stem.named_parameters()}})
    for name, expected in calls[2].items():
        assert_as_good_as(calls[0][name], calls[1][name], expected, name)


@pytest.mark.parametrize("model", [QuadMamba, MambaTreeV])
def test_networks_have_the_kernel_and_only_if_they_may(model):
    network = model(depths=(1, 1), dims=(48, 96), num_classes=5).cuda().eval()
    images = torch.randn(2, 3, 64, 64, device="cuda")

    def kernels():
        recorded = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16), recorded as profile:
            network(images)
            torch.cuda.synchronize()
        return [event.key for event in profile.key_averages() if "conv_norm_gelu_kernel" in event.key]

    assert len(kernels()) == 1
    fuse_mlps(network, fused=False)
    assert not kernels()
