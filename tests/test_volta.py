"""Tests that every CUDA source compiles for the V100, for which CUDA 13 has no compiler (dev/volta.py)."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import volta

SOURCES = sorted(volta.SOURCES.rglob("*.cu"))
# What a thread keeps in memory for want of registers. clang spills more than nvcc, so that this is no measure of the
# speed on a V100; it shows a kernel that has outgrown its registers. No model runs in double.
MOST_SPILLED_BYTES, MOST_SPILLED_BYTES_OF_DOUBLE = 640, 2048


@pytest.fixture(scope="module")
def kernels():
    """Compile everything, two sources at a time; what has not changed is kept from the last run."""
    if (reason := volta.missing()) is not None:
        pytest.skip(f"not compiled for the V100: {reason}")
    volta.toolkit()
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SOURCES, pool.map(volta.compile_kernels, SOURCES), strict=True))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(volta.SOURCES)))
def test_every_source_has_kernels_for_a_v100(kernels, source):
    assert kernels[source]
    assert max(kernel.registers for kernel in kernels[source]) <= 255


def test_no_kernel_spills_much(kernels):
    of_all = [kernel for of_source in kernels.values() for kernel in of_source]
    of_double = [kernel for kernel in of_all if "double" in kernel.name]
    of_models = [kernel for kernel in of_all if "double" not in kernel.name]
    assert [kernel for kernel in of_models if kernel.stores > MOST_SPILLED_BYTES] == []
    assert [kernel for kernel in of_double if kernel.stores > MOST_SPILLED_BYTES_OF_DOUBLE] == []
    assert of_double
    assert of_models
