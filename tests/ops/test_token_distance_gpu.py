"""Token distances and the trees of sequences on the GPU equal those on the CPU."""

import pytest
import torch
from oracles.sequences import distance_arguments as arguments
from torch.library import opcheck

from ssm_core.testing import assert_close
from tree_ssm.ops import minimum_spanning_tree, token_distances, token_edges

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "shape", [(1, 1, 4, 4), (3, 2, 8, 1), (2, 7, 5, 16), (3, 50, 64, 16), (2, 301, 1536, 16), (1, 9, 260, 3)], ids=str
)
def test_equals_reference(shape):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        values = arguments(*shape, dtype)
        exact = token_distances(*(v.double() if v.is_floating_point() else v for v in values))
        for reach in (1, 2, 3):
            actual = token_distances(*(v.cuda() for v in values), reach, backend="cuda")
            # In half types Δ has an error of 6e-5 (csrc/common/cuda/math.cuh). The cosine cancels most of it.
            tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 1e-4)
            assert_close(actual, exact[:, : actual.shape[1]], tolerance=tolerance)


def test_strides_operator_rules_and_graph_replay():
    x, delta, bias, B, start, end = values = [v.cuda() for v in arguments(2, 40, 12, 4, torch.float32)]
    expected = token_distances(*values)
    wide = torch.cat([B, x], dim=-1)
    strided = token_distances(wide[..., 4:], delta.mT.contiguous().mT, bias, wide[..., :4], start, end)
    assert_close(strided, expected)
    opcheck(torch.ops.tree_ssm.token_distance, (*values, 3))
    statics = [torch.zeros_like(v) for v in values]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = token_distances(*statics)
    for static, value in zip(statics, values, strict=True):
        static.copy_(value)
    graph.replay()
    assert torch.equal(replayed, expected)
    assert token_distances(*values, reach=5).shape == (2, 5 * 40 - 15)  # PyTorch's operators compute this reach
    none = token_distances(x[:0], delta[:0], bias, B[:0], start[:0], end[:0])
    assert none.shape == (0, 3 * 40 - 6)


@pytest.mark.parametrize("length", [1, 2, 3, 33, 513, 2048, 2679, 5000])
def test_trees_of_sequences_are_those_of_the_cpu(length):
    # The kernel works in shared memory up to about 2,700 tokens, and in global memory for longer sequences.
    edges = token_edges(length, 3)
    generator = torch.Generator().manual_seed(length)
    root = torch.tensor([length - 1, 0, length // 2])
    distinct = torch.rand(3, len(edges), generator=generator)
    for weight in (distinct, distinct.mul(4).floor()):
        expected = minimum_spanning_tree(weight, edges=edges, num_vertices=length, root=root)
        actual = minimum_spanning_tree(weight.cuda(), edges=edges.cuda(), num_vertices=length, root=root.cuda())
        assert torch.equal(actual.parent.cpu(), expected.parent)
        assert torch.equal(actual.order.cpu(), expected.order)
