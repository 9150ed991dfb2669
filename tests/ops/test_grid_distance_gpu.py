"""Compares the distances along the grid's edges on the GPU with the CPU kernel."""

import pytest
import torch

from ssm_core.testing import assert_as_good_as, assert_close
from tree_ssm.ops import grid_distances

pytestmark = pytest.mark.gpu
SHAPES = [(2, 4, 3, 1), (3, 1, 5, 7), (1, 5, 1, 8), (2, 1, 1, 3), (3, 56, 56, 160), (2, 7, 9, 1280), (1, 31, 20, 333)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_cpu_repeats_and_replays(shape, dtype):
    x = torch.randn(shape, dtype=dtype)
    on_gpu = x.cuda()
    actual = grid_distances(on_gpu, backend="cuda")
    assert_close(actual, grid_distances(x.double(), backend="cpu"), tolerance=1e-6 if dtype == torch.float32 else None)
    assert torch.equal(grid_distances(on_gpu), actual)
    graph = torch.cuda.CUDAGraph()
    static = torch.zeros_like(on_gpu)
    with torch.cuda.graph(graph):
        replayed = grid_distances(static)
    static.copy_(on_gpu)
    graph.replay()
    assert torch.equal(replayed, actual)


@pytest.mark.parametrize("channels", [5, 160])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_as_good_as_the_reference(dtype, channels):
    x = torch.randn(3, 14, 15, channels).to(dtype)
    exact = grid_distances(x.double(), backend="reference")
    assert_as_good_as(grid_distances(x.cuda(), backend="cuda"), grid_distances(x, backend="reference"), exact)
