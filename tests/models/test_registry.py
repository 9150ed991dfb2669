"""``type="package.Class"`` in a config finds the model in a fresh process, and needs no import before."""

import subprocess
import sys

BUILD = """
from mmengine.registry import MODELS
for name, arch in (("quadtree_ssm.QuadMamba", "lite"), ("tree_ssm.MambaTreeV", "tiny")):
    model = MODELS.build(dict(type=name, arch=arch, depths=(1, 1, 1, 1), out_indices=(0, 1, 2, 3)))
    print(type(model).__name__, [info["num_chs"] for info in model.feature_info], len(model.stages[0].blocks))
"""
IMPORT = """
import sys, quadtree_ssm, tree_ssm, timm
print(timm.is_model("quadmamba_lite"), timm.is_model("mambatree_tiny"))
print(sorted({"mmengine", "mmcv", "mmdet", "mmseg", "transformers"} & set(sys.modules)))
"""


def lines(script):
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return result.stdout.strip().splitlines()


def test_mmengine_builds_by_scoped_name():
    assert lines(BUILD)[-2:] == ["QuadMamba [48, 96, 192, 384] 1", "MambaTreeV [80, 160, 320, 640] 1"]


def test_import_registers_with_timm_and_needs_torch_and_timm_only():
    assert lines(IMPORT) == ["True True", "[]"]
