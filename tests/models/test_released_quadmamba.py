"""Converted QuadMamba checkpoints give the outputs and every gradient of the released model."""

from functools import partial

import pytest
import torch
from oracles import released_quadmamba as oracle
from oracles.parity import errors_against_oracle

from quadtree_ssm import QuadMamba
from quadtree_ssm.checkpoint import RELEASED

# Depths 4 and 4 shift in all four directions. With depths 3 and 2, a block's index within its stage differs from its
# index in the network.
CASES = {
    "one state, all shifts": ({"depths": (4, 4, 1, 1), "dims": (16, 24, 32, 32)}, (64, 64)),
    "four states, odd depth, oblong": ({"depths": (3, 2, 2, 1), "dims": (16, 24, 32, 32), "d_state": 4}, (64, 96)),
    "ratio 1": ({"depths": (2, 2, 1, 1), "dims": (16, 16, 32, 32), "ssm_ratio": 1.0}, (96, 64)),
    "conv bias, mlp ratio 2": (
        {"depths": (1, 2, 1, 1), "dims": (16, 24, 32, 32), "d_state": 2, "conv_bias": True, "mlp_ratio": 2.0},
        (64, 64),
    ),
    "backbone": (
        {"depths": (1, 2, 1, 1), "dims": (16, 16, 24, 32), "num_classes": None, "out_indices": (0, 1, 2, 3)},
        (64, 64),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["fp64", "fp32"])
def test_outputs_and_gradients(case, dtype, limit):
    arguments, size = CASES[case]
    errors = errors_against_oracle(
        oracle.shapes(**arguments), RELEASED, QuadMamba, oracle.forward, size, list(CASES).index(case), dtype
    )
    assert {name: error for name, error in errors.items() if not error <= limit} == {}


def test_predictor_of_the_first_release():
    errors = errors_against_oracle(
        oracle.shapes((2, 1, 1, 1), (16, 24, 32, 32)),
        RELEASED,
        QuadMamba,
        partial(oracle.forward, global_context=True),
        (64, 64),
        seed=7,
        dtype=torch.float64,
        predictor_context="global",
    )
    assert max(errors.values()) <= 1e-10
