"""The one tolerance table and the comparisons that every test of an operator uses."""

import torch
from torch import Tensor

# Root-mean-square error of the difference over the root-mean-square of the expected value, for two computations of the
# same thing in the same dtype whose order of additions differs.
TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Root-mean-square error of ``actual``, relative to the root mean square of ``expected``; NaN stays NaN."""
    if actual.shape != expected.shape:
        raise AssertionError(f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}")
    a, e = actual.detach().double().cpu(), expected.detach().double().cpu()
    scale = e.square().mean().sqrt().clamp_min(1e-30)
    return float((a - e).square().mean().sqrt() / scale) if e.numel() else 0.0


def assert_close(actual: Tensor, expected: Tensor, name: str = "value", tolerance: float | None = None) -> None:
    """Fail unless ``actual`` is within the table's tolerance for its dtype (or the given one) of ``expected``."""
    limit = TOLERANCE[actual.dtype] if tolerance is None else tolerance
    error = relative_error(actual, expected)
    if not error <= limit:
        raise AssertionError(f"{name}: relative error {error:.3e} exceeds {limit:.1e}")


def assert_as_good_as(actual: Tensor, same_dtype: Tensor, exact: Tensor, name: str = "value") -> None:
    """Fail unless ``actual`` is at most twice as far from float64 as a same-dtype PyTorch computation.

    The rule of flash-attention's tests: a low-precision kernel has no absolute tolerance, it has a competitor.
    One unit in the last place of the dtype is granted, since the competitor can be exact by luck.
    """
    limit = 2 * relative_error(same_dtype, exact) + torch.finfo(actual.dtype).eps
    error = relative_error(actual, exact)
    if not error <= limit:
        raise AssertionError(f"{name}: error {error:.3e} to float64 exceeds {limit:.3e}, twice the reference's")
