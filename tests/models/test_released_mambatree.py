"""Converted MambaTree checkpoints give the outputs and every gradient of the released model."""

from functools import partial

import pytest
import torch
from oracles import released_mambatree as oracle
from oracles.parity import errors_against_oracle

from tree_ssm import MambaTreeV
from tree_ssm.checkpoint import RELEASED

CASES = {
    "plain": ({"depths": (2, 1, 1, 1), "channels": 16}, (64, 64)),
    "layer scale, oblong": ({"depths": (1, 2, 1, 1), "channels": 16, "layer_scale": True}, (48, 80)),
    "odd sides": ({"depths": (1, 1, 2, 1), "channels": 24}, (41, 67)),
    "backbone": ({"depths": (1, 1, 1, 2), "channels": 16, "layer_scale": True, "num_classes": None}, (64, 48)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["fp64", "fp32"])
def test_outputs_and_gradients(case, dtype, limit):
    arguments, size = CASES[case]
    forward = partial(oracle.forward, maps=case == "backbone")
    errors = errors_against_oracle(
        oracle.shapes(**arguments), RELEASED, MambaTreeV, forward, size, list(CASES).index(case), dtype
    )
    assert {name: error for name, error in errors.items() if not error <= limit} == {}
