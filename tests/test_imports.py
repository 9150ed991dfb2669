"""Who may import whom (docs/design.md), read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ssm_core", "quadtree_ssm", "tree_ssm", "ssm_train")
LANGUAGE_LIBRARIES = {"transformers", "peft", "tokenizers", "lm_eval", "datasets"}
TASK_LIBRARIES = {"mmengine", "mmcv", "mmdet", "mmseg", "matplotlib", "sklearn", "torchvision"} | LANGUAGE_LIBRARIES
PAGE_LIBRARIES = {"gradio", "playwright"}  # of tools and tests alone
# From what a module in this folder may not import; "" is the package's top level.
LOWER = {"ops": {"layers", "backbone", "modules", "models", "registry", "checkpoint", "visualization"}}
LOWER["layers"] = LOWER["ops"] - {"layers"}
LOWER |= {name: {"visualization", "registry"} for name in ("backbone", "modules", "models", "checkpoint")}


def sources():
    return sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


def imported(path):
    """Dotted names that a module imports anywhere, absolute."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*base, *(node.module or "").split("."))).strip(".")
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def room(path):
    """The package and, within it, the folder (or top-level module) that a file is in."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0], parts[1]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_import_rules(path):
    package, folder = room(path)
    names = set(imported(path))
    others = {
        "ssm_core": {"quadtree_ssm", "tree_ssm", "ssm_train"},
        "quadtree_ssm": {"tree_ssm", "ssm_train"},
        "tree_ssm": {"quadtree_ssm", "ssm_train"},
        "ssm_train": set(),
    }
    wrong = {n for n in names if n.split(".")[0] in others[package]}
    wrong |= {n for n in names if n.split(".")[0] in ("tools", "configs", "tests")}
    if package != "ssm_train" and folder not in ("registry", "language"):
        wrong |= {n for n in names if n.split(".")[0] in TASK_LIBRARIES - {"matplotlib"}}
    if package != "ssm_train" and folder != "visualization":
        wrong |= {n for n in names if n.split(".")[0] == "matplotlib"}
    wrong |= {n for n in names if n.split(".")[0] in PAGE_LIBRARIES}
    if "language" not in path.parts:
        wrong |= {n for n in names if n.split(".")[0] in LANGUAGE_LIBRARIES}
    elif package == "tree_ssm":
        wrong |= {n for n in names if n.split(".")[0].startswith("mm")}
    if path.name != "to_onnx.py" and package != "ssm_train":
        wrong |= {n for n in names if n.split(".")[0] in ("onnx", "onnxscript")}
    if folder not in ("hub", "language"):  # timm brings it
        wrong |= {n for n in names if n.split(".")[0] == "huggingface_hub"}
    if folder == "ops":
        wrong |= {n for n in names if n.split(".")[0] == "timm"}
    for n in names:
        parts = n.split(".")
        if parts[0] in PACKAGES and len(parts) > 1 and parts[1] in LOWER.get(folder, ()):
            wrong.add(n)
    assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_importing_a_family_needs_torch_and_timm_only():
    """In a fresh process, whose timm then knows the models."""
    code = f"""
import sys
import quadtree_ssm, tree_ssm, ssm_core.ops
print(sorted({TASK_LIBRARIES - {"torchvision"}!r} & set(sys.modules)))
import timm
print(timm.is_model("quadmamba_lite"), timm.is_model("mambatree_tiny"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "True True"]


def test_commands_start_without_transformers():
    code = """
import sys
import ssm_train.apis.train
print("transformers" in sys.modules)
import transformers
print(transformers.Adafactor.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["False", "Adafactor"], done.stderr
