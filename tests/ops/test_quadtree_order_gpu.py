"""Compares the quadtree order and the straight-through mask's gradient on the GPU with the CPU kernels."""

import pytest
import torch
from torch.library import opcheck

from quadtree_ssm.ops import quadtree_order
from quadtree_ssm.ops.quadtree_order import mask_gradient
from ssm_core.testing import assert_as_good_as, assert_close

pytestmark = pytest.mark.gpu

SIZES = [(2, 2), (2, 3), (3, 2), (4, 4), (7, 9), (5, 13), (14, 14), (56, 56)]
SHIFTS = [(0, 0), (1, 1), (-1, -1), (2, -1), (-3, 20)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_order_equals_the_cpu_kernel(size, levels):
    choice = torch.tensor([3, 0, 2, 1, 1])
    for shift in SHIFTS:
        order = quadtree_order(choice.cuda(), *size, levels, shift, "cuda")
        assert torch.equal(order.cpu(), quadtree_order(choice, *size, levels, shift, "cpu"))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [1, 19, 64])
def test_mask_gradient_equals_the_cpu_kernel(size, channels):
    a, b = torch.randn(2, 5, size[0] * size[1], channels, dtype=torch.float64)
    choice = torch.tensor([0, 1, 2, 3, 0])
    for shift in SHIFTS:
        actual = mask_gradient(a.cuda(), b.cuda(), choice.cuda(), *size, shift, "cuda")
        assert_close(actual, mask_gradient(a, b, choice, *size, shift, "cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [40, 37])
def test_mask_gradient_in_low_precision(dtype, channels):
    a, b = torch.randn(2, 3, 64, channels, dtype=dtype, device="cuda")
    choice = torch.tensor([0, 1, 2], device="cuda")
    exact = mask_gradient(a.double(), b.double(), choice, 8, 8, backend="reference")
    same = mask_gradient(a, b, choice, 8, 8, backend="reference")
    actual = mask_gradient(a, b, choice, 8, 8, backend="cuda")
    assert actual.dtype == torch.float32
    assert_as_good_as(actual, same, exact)


def test_same_bits_from_run_to_run_and_in_any_batch():
    a, b = torch.randn(2, 8, 784, 192, device="cuda")
    choice = torch.arange(8, device="cuda") % 4
    first = mask_gradient(a, b, choice, 28, 28)
    for _ in range(3):
        assert torch.equal(mask_gradient(a, b, choice, 28, 28), first)
    assert torch.equal(mask_gradient(a[2:3], b[2:3], choice[2:3], 28, 28), first[2:3])


def test_opcheck():
    choice = torch.tensor([1, 3], device="cuda")
    opcheck(torch.ops.quadtree_ssm.quadtree_order.default, (choice, 5, 6, 2, 1, -1))
    a, b = torch.randn(2, 2, 30, 4, device="cuda")
    opcheck(torch.ops.quadtree_ssm.mask_gradient.default, (a, b, choice, 5, 6, 1, -1))


def test_captured_in_a_graph():
    choice = torch.tensor([0, 1, 2, 3], device="cuda")
    a, b = torch.randn(2, 4, 3136, 40, device="cuda")
    mask_gradient(a, b, choice, 56, 56)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        order = quadtree_order(choice, 56, 56)
        gradient = mask_gradient(a, b, choice, 56, 56)
    choice.copy_(choice.flip(0))
    graph.replay()
    assert torch.equal(order, quadtree_order(choice, 56, 56))
    assert torch.equal(gradient, mask_gradient(a, b, choice, 56, 56))


def test_compiles_without_a_graph_break():
    @torch.compile(fullgraph=True)
    def order(choice):
        return quadtree_order(choice, 6, 5, 2, (1, 2)) + 1

    choice = torch.tensor([2, 0], device="cuda")
    assert torch.equal(order(choice), quadtree_order(choice, 6, 5, 2, (1, 2)) + 1)


def test_strided_choice():
    choice = torch.tensor([0, 9, 3, 9], device="cuda")[::2]
    assert torch.equal(quadtree_order(choice, 4, 4).cpu(), quadtree_order(choice.cpu(), 4, 4))
