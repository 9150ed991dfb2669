"""One function draws what a scan of either family chose, once the family's visualization module is imported."""

import subprocess
import sys
from pathlib import Path

CODE = """
import importlib, sys
import numpy as np, torch
from matplotlib.figure import Figure
from ssm_core.layers import record_scans
from ssm_core.visualization import draw_choice, is_drawable
from quadtree_ssm import QuadMamba
from tree_ssm import MambaTreeV

assert not any(name.endswith("ssm.visualization") for name in sys.modules)
for family in (QuadMamba, MambaTreeV):
    model = family(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=0).eval()
    with record_scans(model) as record, torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
    axes, chosen = Figure().subplots(), next(iter(record.values()))
    assert not is_drawable(chosen)
    try:
        draw_choice(chosen, axes, np.zeros((32, 32)))
    except TypeError as error:
        print(error)
    importlib.import_module(f"{family.__module__.split('.')[0]}.visualization")
    assert is_drawable(chosen)
    draw_choice(chosen, axes, np.zeros((32, 32)), title="a block")
    print(len(axes.collections), axes.get_title())
"""


def test_families_register_what_their_scans_chose():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    unknown = "no drawing is registered for a {} of {}.modules: import the module that registers one"
    assert done.stdout.splitlines() == [
        unknown.format("ChosenQuadrant", "quadtree_ssm"),
        "8 a block",  # a frame for each of seven windows, and the shade behind all of them
        unknown.format("GrownTree", "tree_ssm"),
        "1 a block",
    ]
