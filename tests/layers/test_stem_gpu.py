"""The stem on a GPU in half types, where its first convolution is a product of windows."""

import copy

import pytest
import torch

from ssm_core.layers import Stem

pytestmark = pytest.mark.gpu


def first_maps(stem, images, grad, dtype):
    """The first convolution's map as the stem computes it, and the gradients of its parameters."""
    maps = []
    handle = stem.norm1.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    with torch.autocast("cuda", dtype, enabled=images.is_cuda):
        stem(images)
    handle.remove()
    gradients = torch.autograd.grad(maps[0], list(stem.conv1.parameters()), grad.to(maps[0]))
    return [x.detach().double().cpu() for x in (maps[0], *gradients)]


@pytest.mark.parametrize("size", [(224, 224), (33, 47)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_product_is_as_good_as_the_convolution(channels, dtype, size):
    torch.manual_seed(0)
    stem = Stem(channels, 64, 1e-5)
    images, grad = torch.randn(4, channels, *size), torch.randn(4, -(-size[0] // 2), -(-size[1] // 2), 32)
    expected = first_maps(copy.deepcopy(stem).double(), images.double(), grad.double(), dtype)
    stem.cuda()
    product = first_maps(stem, images.cuda(), grad.cuda(), dtype)
    stem.conv1.register_forward_hook(lambda *_: None)  # a layer with a hook is called
    convolution = first_maps(stem, images.cuda(), grad.cuda(), dtype)
    for ours, theirs, exact in zip(product, convolution, expected, strict=True):
        size_of = exact.abs().max()
        error, bound = (ours - exact).abs().max() / size_of, (theirs - exact).abs().max() / size_of
        assert error <= 1.5 * bound + 1e-6
