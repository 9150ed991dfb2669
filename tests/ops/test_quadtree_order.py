"""Tests of the quadtree order and of the straight-through mask's gradient, from brute force to compilation."""

import pytest
import torch
from oracles.quadtree import brute_force_order, literal_sequence
from torch.library import opcheck

from quadtree_ssm.ops import quadtree_order, straight_through_input, straight_through_output
from quadtree_ssm.ops.quadtree_order import mask_gradient
from ssm_core.testing import assert_as_good_as, assert_close

SIZES = [(2, 2), (2, 3), (3, 2), (4, 4), (7, 9), (8, 8), (5, 13), (14, 14)]
SHIFTS = [(0, 0), (1, 1), (-1, -1), (2, -1), (-3, 20)]
BACKENDS = ["reference", "cpu"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_order_equals_brute_force(size, shift, backend):
    choice = torch.tensor([3, 0, 2, 1, 1])
    order = quadtree_order(choice, *size, 2, shift, backend)
    assert torch.equal(order, torch.stack([brute_force_order(*size, int(c), shift) for c in choice]))
    coarse = quadtree_order(choice, *size, 1, shift, backend)
    assert torch.equal(coarse, brute_force_order(*size, None, shift).expand(5, -1))
    raster = quadtree_order(choice, *size, 0, shift, backend)
    assert torch.equal(raster, torch.arange(size[0] * size[1]).view(size).roll(shift, (0, 1)).flatten().expand(5, -1))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shift", SHIFTS[:4], ids=str)
def test_straight_through_gradients_equal_autograd_of_the_papers_formulation(size, shift):
    height, width = size
    length = height * width
    choice = torch.tensor([0, 3, 1, 2])
    soft = torch.rand(4, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.nn.functional.one_hot(choice, 4).double() + soft - soft.detach()
    x = torch.randn(4, length, 3, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(length, length, dtype=torch.float64)  # any function that mixes the sequence's places will do

    def mixed(seq):
        return torch.einsum("st,btd->bsd", kernel, seq).sin()

    seq, m, fine_place, coarse_place = literal_sequence(x, mask, height, width, shift)
    y = mixed(seq)
    expected = y[:, fine_place] * m + y[:, coarse_place] * (1 - m)
    upstream = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), (x, soft))

    order = quadtree_order(choice, height, width, 2, shift)
    index = order.unsqueeze(-1).expand_as(x)
    inner = straight_through_input(x, mask, choice, height, width, shift)
    out = torch.zeros_like(x).scatter(1, index, mixed(inner.gather(1, index)))
    out = straight_through_output(out, mask, choice, height, width, shift)
    gradients = torch.autograd.grad((out * upstream).sum(), (x, soft))
    assert_close(out, expected)
    for name, a, e in zip(("x", "mask"), gradients, expected_gradients, strict=True):
        assert_close(a, e, name)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mask_gradient_kernel_equals_reference(size):
    a, b = torch.randn(2, 5, size[0] * size[1], 19, dtype=torch.float64)
    choice = torch.tensor([0, 1, 2, 3, 0])
    for shift in SHIFTS:
        assert_close(
            mask_gradient(a, b, choice, *size, shift, "cpu"), mask_gradient(a, b, choice, *size, shift, "reference")
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mask_gradient_in_low_precision(dtype):
    a, b = torch.randn(2, 3, 64, 40, dtype=dtype)
    choice = torch.tensor([0, 1, 2])
    exact = mask_gradient(a.double(), b.double(), choice, 8, 8, backend="reference")
    same = mask_gradient(a, b, choice, 8, 8, backend="reference")
    actual = mask_gradient(a, b, choice, 8, 8, backend="cpu")
    assert actual.dtype == torch.float32
    assert_as_good_as(actual, same, exact)


def test_opcheck():
    choice = torch.tensor([1, 3])
    opcheck(torch.ops.quadtree_ssm.quadtree_order.default, (choice, 5, 6, 2, 1, -1))
    a, b = torch.randn(2, 2, 30, 4)
    opcheck(torch.ops.quadtree_ssm.mask_gradient.default, (a, b, choice, 5, 6, 1, -1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_without_a_graph_break(backend):
    @torch.compile(fullgraph=True, backend="aot_eager")
    def order(choice):
        return quadtree_order(choice, 6, 5, 2, (1, 2), backend)

    choice = torch.tensor([2, 0])
    assert torch.equal(order(choice), quadtree_order(choice, 6, 5, 2, (1, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2), 4, 4), r"choice must be an int64 vector \[B\], got torch.float32"),
        ((torch.zeros(2, 2, dtype=torch.int64), 4, 4), r"choice must be an int64 vector \[B\]"),
        ((torch.zeros(2, dtype=torch.int64), 1, 4), "the map must be at least 2×2 to be cut in four, got 1×4"),
        ((torch.zeros(2, dtype=torch.int64), 4, 4, 3), "levels must be 0, 1 or 2, got 3"),
        ((torch.full((2,), 4), 4, 4), "choice must hold quadrants 0 to 3, got 4 to 4"),
    ],
)
def test_bad_input_gets_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=f"quadtree_order: {message}"):
        quadtree_order(*arguments)
