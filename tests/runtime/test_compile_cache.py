"""A second process takes what the first one has compiled, with the gradients of the eager network."""

import json
import os

import pytest
import runs
import torch
from torch import nn

from quadtree_ssm.ops.quadtree_order import straight_through_input
from ssm_train.runtime.building import compile_parts


class Backbone(nn.Module):
    """Has a part of every kind that compiled networks have.

    These are a product of matrices, an autograd.Function, and in its backward pass an operator of this project.
    """

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(6, 6)
        self.mask = nn.Parameter(torch.rand(2, 4))
        self.register_buffer("choice", torch.tensor([0, 3]))

    def forward(self, x):
        return straight_through_input(self.project(x), self.mask, self.choice, 4, 4).square().sum()


def gradients(model, x):
    model.zero_grad()
    model.backbone(x).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def compile_and_count(cache, report):
    """Compile with torch's caches in a folder, compare with the eager network, and write what the caches counted."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    from torch._dynamo.utils import counters
    from torch._inductor import config

    # Without compiled headers and vector instructions, each of which is tried first, the compiler is quicker.
    config.cpp.vec_isa_ok = False
    config.cpp_cache_precompile_headers = False
    torch.manual_seed(0)
    model = nn.Module()
    model.backbone = Backbone()
    x = torch.randn(2, 16, 6)
    eager = gradients(model, x)
    compile_parts(model, True)
    for own, expected in zip(gradients(model, x), eager, strict=True):
        torch.testing.assert_close(own, expected)
    found = {**counters["inductor"], **counters["aot_autograd"]}
    report.write_text(json.dumps({name: count for name, count in found.items() if "cache" in name}))


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """Return the counts of torch's caches in two processes, one after the other."""
    folder = tmp_path_factory.mktemp("cache")
    reports = [folder / "first.json", folder / "second.json"]
    for report in reports:
        runs.call(compile_and_count, report.with_suffix(".log"), folder / "cache", report)
    return [json.loads(report.read_text()) for report in reports]


def test_the_first_process_compiles_and_keeps(counts):
    assert counts[0]["fxgraph_cache_miss"] > 0
    assert counts[0]["autograd_cache_saved"] == 1
    assert "fxgraph_cache_hit" not in counts[0]


def test_the_second_process_compiles_nothing(counts):
    assert counts[1]["fxgraph_cache_hit"] == counts[0]["fxgraph_cache_miss"]
    assert counts[1]["autograd_cache_hit"] == 1
    assert not {"fxgraph_cache_miss", "fxgraph_cache_bypass", "autograd_cache_miss", "autograd_cache_bypass"} & set(
        counts[1]
    )
