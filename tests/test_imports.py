"""Tests what the import contracts (.importlinter) cannot: what a fresh process loads, and the names in the text."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPTIONAL_LIBRARIES = {
    "mmengine", "mmcv", "mmdet", "mmseg", "matplotlib", "sklearn", "transformers", "peft", "tokenizers", "lm_eval",
    "datasets", "onnx", "onnxscript",
}  # fmt: skip
FAMILY = re.compile(r"quadtree_ssm|tree_ssm|quad_?mamba|mamba_?tree", re.IGNORECASE)


def run(code):
    """Run code in a fresh Python process and return the lines that it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def imported():
    """Return what a fresh process says after it has imported the core, and then the families."""
    code = f"""
import os, sys
before = dict(os.environ)
import ssm_core.backbone, ssm_core.doctor, ssm_core.flops, ssm_core.hub, ssm_core.layers, ssm_core.ops, ssm_core.testing
print(sorted({{"quadtree_ssm", "tree_ssm", "ssm_train"}} & set(sys.modules)))
import quadtree_ssm.ops, tree_ssm.ops
print(sorted({OPTIONAL_LIBRARIES!r} & set(sys.modules)))
import timm
print(timm.is_model("quadmamba_lite"), timm.is_model("mambatree_tiny"))
print({{name for name in {{*before, *os.environ}} if before.get(name) != os.environ.get(name) and "OMP" in name}})
"""
    return dict(zip(("of families", "optional", "known to timm", "environment"), run(code), strict=True))


def test_importing_a_family_needs_torch_and_timm_only(imported):
    """After the import, timm knows the models."""
    assert imported["optional"] == "[]"
    assert imported["known to timm"] == "True True"


def test_importing_the_core_loads_no_family(imported):
    assert imported["of families"] == "[]"


def test_importing_the_packages_leaves_the_environment_as_it_is(imported):
    """How threads wait for each other is the user's to say, or a tool's."""
    assert imported["environment"] == "set()"


def test_commands_start_without_transformers():
    code = """
import sys
import ssm_train.apis.train
print("transformers" in sys.modules)
import transformers
print(transformers.Adafactor.__name__)
"""
    assert run(code) == ["False", "Adafactor"]


@pytest.mark.parametrize("path", sorted((ROOT / "ssm_core").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_names_no_family(path):
    """The core names no family in strings, which would import it in another way, and none in prose."""
    found = [line.strip() for line in path.read_text().splitlines() if FAMILY.search(line)]
    assert not found
