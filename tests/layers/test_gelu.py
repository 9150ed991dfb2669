"""GELU by one exponential and a polynomial, against SciPy's normal distribution."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_ndtr, ndtr

from ssm_core.layers import GELU
from ssm_core.layers.gelu import HalfGELU
from ssm_core.testing import assert_close

HALF_TYPES = [torch.bfloat16, torch.float16]


def all_numbers(dtype):
    """Every finite number of a type of 16 bits."""
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    return numbers[numbers.isfinite()]


def exact(x):
    """x Φ(x) and its derivative in float64. Φ is exact in the tail, too, where PyTorch's GELU is not."""
    x = x.double().numpy()
    with np.errstate(under="ignore", over="ignore"):
        below, bell = np.exp(log_ndtr(x)), np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi)
        return torch.from_numpy(x * below), torch.from_numpy(below + x * bell)


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_every_number_of_a_half_type_is_rounded_once(dtype):
    x = all_numbers(dtype)
    expected, _ = exact(x)
    info = torch.finfo(dtype)
    error = (HalfGELU.apply(x).double() - expected).abs()
    # Half the distance between two numbers, and the error of the polynomial. Subnormal numbers are further apart.
    assert (error <= (0.5 * info.eps + 5e-5) * expected.abs() + info.smallest_normal * info.eps).all()


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_the_derivative_of_every_number(dtype):
    x = all_numbers(dtype).requires_grad_()
    HalfGELU.apply(x).backward(torch.ones_like(x))
    _, expected = exact(x.detach())
    # The derivative has a zero, where its two terms cancel.
    assert ((x.grad.double() - expected).abs() <= torch.finfo(dtype).eps * expected.abs() + 4e-5).all()


def test_scipys_distribution_is_that_of_pytorch():
    x = torch.linspace(-4, 4, 81, dtype=torch.float64)
    assert_close(F.gelu(x), torch.from_numpy(x.numpy() * ndtr(x.numpy())))
    assert_close(exact(x)[0], F.gelu(x))


def test_without_a_graph_it_is_pytorchs():
    x = torch.randn(5, 7)
    assert torch.equal(GELU()(x), F.gelu(x))
    assert torch.equal(GELU()(x.bfloat16()), F.gelu(x.bfloat16()))
    assert torch.equal(torch.compile(GELU(), fullgraph=True, backend="aot_eager")(x.bfloat16()), F.gelu(x.bfloat16()))


def test_in_graphs_and_under_transforms():
    torch.manual_seed(0)
    x = torch.randn(3, 5, dtype=torch.bfloat16, requires_grad=True)
    expected = torch.autograd.grad(HalfGELU.apply(x).float().square().sum(), x)[0]
    compiled = torch.compile(lambda x: HalfGELU.apply(x), fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.autograd.grad(compiled(x).float().square().sum(), x)[0], expected)
    each = torch.func.vmap(torch.func.grad(lambda row: HalfGELU.apply(row).float().square().sum()))(x.detach())
    assert torch.equal(each, expected)


def test_forward_mode_in_graphs():
    torch.manual_seed(0)
    x, tangent = torch.randn(2, 3, 5, dtype=torch.bfloat16)
    tangent_of_graph = torch.compile(
        lambda x, t: torch.func.jvp(HalfGELU.apply, (x,), (t,))[1], fullgraph=True, backend="aot_eager"
    )(x, tangent)
    expected = exact(x)[1] * tangent.double()
    assert_close(tangent_of_graph.double(), expected, tolerance=torch.finfo(torch.bfloat16).eps)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_compiled_for_a_gpu(dtype):
    x = all_numbers(dtype)
    on_gpu = x.cuda().requires_grad_()
    y = torch.compile(GELU(), fullgraph=True)(on_gpu)
    y.backward(torch.ones_like(y))
    expected, slope = exact(x)
    info = torch.finfo(dtype)
    error = (y.detach().cpu().double() - expected).abs()
    assert (error <= (0.5 * info.eps + 5e-5) * expected.abs() + info.smallest_normal).all()
    assert ((on_gpu.grad.cpu().double() - slope).abs() <= info.eps * slope.abs() + 4e-5).all()
