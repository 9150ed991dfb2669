"""``type="package.Class"`` in a config finds the model in a fresh process without an import."""

import subprocess
import sys

BUILD = """
from mmengine.registry import MODELS
for name, arch in (("quadtree_ssm.QuadMamba", "lite"), ("tree_ssm.MambaTreeV", "tiny")):
    model = MODELS.build(dict(type=name, arch=arch, depths=(1, 1, 1, 1), out_indices=(0, 1, 2, 3)))
    print(type(model).__name__, [info["num_chs"] for info in model.feature_info], len(model.stages[0].blocks))
"""


def test_mmengine_builds_by_scoped_name():
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["QuadMamba [48, 96, 192, 384] 1", "MambaTreeV [80, 160, 320, 640] 1"]
