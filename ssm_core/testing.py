"""The tolerance table and the comparisons that the tests of all operators use."""

import torch
from torch import Tensor

# The largest relative error (see relative_error) between two computations of the same value in the same dtype that
# differ in the order of their additions.
TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the root-mean-square error of ``actual``, divided by the root mean square of ``expected``.

    A NaN in either tensor gives NaN.
    """
    if actual.shape != expected.shape:
        raise AssertionError(f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}")
    a, e = actual.detach().double().cpu(), expected.detach().double().cpu()
    scale = e.square().mean().sqrt().clamp_min(1e-30)
    return float((a - e).square().mean().sqrt() / scale) if e.numel() else 0.0


def assert_close(actual: Tensor, expected: Tensor, name: str = "value", tolerance: float | None = None) -> None:
    """Fail if the relative error of ``actual`` exceeds the tolerance. By default the table gives the tolerance."""
    limit = TOLERANCE[actual.dtype] if tolerance is None else tolerance
    error = relative_error(actual, expected)
    if not error <= limit:
        raise AssertionError(f"{name}: relative error {error:.3e} exceeds {limit:.1e}")


def assert_as_good_as(actual: Tensor, same_dtype: Tensor, exact: Tensor, name: str = "value") -> None:
    """Fail if the error of ``actual`` is more than twice the error of a PyTorch computation in the same dtype.

    Both errors are measured against a float64 result. The tests of flash-attention use the same rule: they compare a
    low-precision kernel with a competitor and set no absolute tolerance. The limit includes one unit in the last place
    of the dtype, because the competitor can be exact by chance.
    """
    limit = 2 * relative_error(same_dtype, exact) + torch.finfo(actual.dtype).eps
    error = relative_error(actual, exact)
    if not error <= limit:
        raise AssertionError(f"{name}: error {error:.3e} to float64 exceeds {limit:.3e}, twice the reference's")
