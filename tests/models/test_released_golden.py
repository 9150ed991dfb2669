"""Tests that the oracles give the numbers that the authors' own code gave.

The released code made ``oracles/released_golden.json`` once. It is github.com/VISION-SJTU/QuadMamba at 4d339b4, or at
07cd16d for the predictor with global context, and github.com/EasonXiao-888/GrootVL at f11bec3. Plain PyTorch replaced
its CUDA operators, and QuadMamba's Gumbel noise was left out. Everything ran in float64 and evaluation mode. Weights
and images are those of ``oracles.weights`` for the case's seed. The file keeps the norm and the sum of each gradient of
the functional in ``weights.gradients``. No code of the authors is in this repository.
"""

import json
from pathlib import Path

import pytest
import torch
from oracles import released_mambatree, released_quadmamba
from oracles.parity import run_oracle
from oracles.weights import make_images, make_weights

GOLDEN = json.loads((Path(__file__).parents[1] / "oracles" / "released_golden.json").read_text())
ORACLES = {"quadmamba": released_quadmamba, "mambatree": released_mambatree}


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['family']}-{case['seed']}")
def test_oracle_gives_the_released_numbers(case):
    oracle = ORACLES[case["family"]]
    weights = make_weights(oracle.shapes(**case["shapes"]), case["seed"])
    logits, gradients = run_oracle(
        lambda w, x: oracle.forward(w, x, **case["forward"]), weights, make_images(*case["images"], case["seed"])
    )
    torch.testing.assert_close(logits, torch.tensor(case["logits"], dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert gradients.keys() == case["gradients"].keys()
    found = torch.tensor([[g.norm(), g.sum()] for g in gradients.values()], dtype=torch.float64)
    expected = torch.tensor([case["gradients"][name] for name in gradients], dtype=torch.float64)
    assert ((found - expected).abs().amax(1) / expected[:, 0]).max() < 1e-8
