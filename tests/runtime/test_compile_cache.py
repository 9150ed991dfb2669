"""A second process takes what the first one has compiled, with the gradients of the eager network."""

import json
import os
import subprocess
import sys

import pytest
from command_line import ROOT

# A part of every kind that compiled networks have: a product of matrices, an autograd.Function, and in its backward
# pass an operator of this project. Without vector instructions and compiled headers, the compiler is quicker.
SCRIPT = """
import json
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config
from quadtree_ssm.ops.quadtree_order import straight_through_input
from ssm_train.runtime.building import compile_parts

config.cpp.simdlen = 1
config.cpp_cache_precompile_headers = False


class Backbone(nn.Module):
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


torch.manual_seed(0)
model = nn.Module()
model.backbone = Backbone()
x = torch.randn(2, 16, 6)
eager = gradients(model, x)
compile_parts(model, True)
for own, expected in zip(gradients(model, x), eager, strict=True):
    torch.testing.assert_close(own, expected)
found = {**counters["inductor"], **counters["aot_autograd"]}
print(json.dumps({name: count for name, count in found.items() if "cache" in name}))
"""


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """Return the counts of torch's caches in two processes, one after the other."""
    folder = tmp_path_factory.mktemp("cache")
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT]
    outputs = [
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout for _ in range(2)
    ]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


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
