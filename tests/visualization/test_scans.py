"""What a scan chose is drawn without knowing its family, in a process that has imported none of their pictures."""

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
import numpy as np, torch
from matplotlib.figure import Figure
from ssm_core.layers import record_scans
from ssm_core.visualization import draw_choice
from quadtree_ssm import QuadMamba
from tree_ssm import MambaTreeV

assert not any(name.endswith("ssm.visualization") for name in sys.modules)
for family in (QuadMamba, MambaTreeV):
    model = family(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=0).eval()
    with record_scans(model) as record, torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
    axes = Figure().subplots()
    draw_choice(next(iter(record.values())), axes, np.zeros((32, 32)), title="a block")
    print(len(axes.collections), axes.get_title())
"""


def test_families_are_found_by_what_they_chose():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["7 a block", "1 a block"]
