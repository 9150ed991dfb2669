"""Tests of loading the compiled library. A library that is absent, damaged or too old never stops the program."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssm_core import _ext
from ssm_core.ops import registry
from ssm_core.ops.backend import choose_backend
from ssm_core.ops.registry import Operator, has_kernel, register

ROOT = Path(__file__).parents[1]
# The function without its cache, because the cache holds the result from the start of the process.
load = _ext.load.__wrapped__


def test_it_is_built_and_loads_twice():
    assert load()
    assert load()


def listed(tool, library):
    """Return what a tool of the GNU binutils says of a library, a list of words for each line."""
    command = [*tool.split(), str(library)]
    return [
        line.split() for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    ]


@pytest.mark.skipif(shutil.which("nm") is None, reason="there are no binutils, which compilers bring")
def test_a_torch_without_cuda_would_load_it():
    """All that it needs of torch is in the libraries that every torch has, also where it has CUDA kernels."""
    library = Path(_ext.__file__).with_name("_C.abi3.so")
    folder = Path(torch.__file__).parent / "lib"
    there = {
        line[-1].partition("@")[0]
        for name in ("libtorch_cpu.so", "libc10.so")
        for line in listed("nm -D --defined-only", folder / name)
    }
    needed = [line[-1] for line in listed("nm -D --undefined-only", library) if line[0] == "U"]
    of_torch = {name for name in needed if name.startswith(("aoti_torch_", "torch_"))}
    assert of_torch
    assert of_torch <= there
    named = {word.strip("[]") for line in listed("readelf --dynamic", library) if "(NEEDED)" in line for word in line}
    assert "libtorch.so" in named or not has_kernel("ssm_core::selective_scan", "cuda")
    assert not {name for name in named if "cuda" in name}


def test_it_says_what_it_was_built_with():
    info = _ext.build_info()
    assert re.fullmatch(r"2\.\d+\.\d+\S*", info["torch"])
    assert re.fullmatch(r"(g\+\+|clang) \d+\.\d+.*", info["compiler"])
    assert ("architectures" in info) == ("cuda" in info) == has_kernel("ssm_core::selective_scan", "cuda")


@pytest.mark.gpu
def test_it_says_which_of_its_kernels_a_gpu_runs():
    """A GPU runs the newest kernels that are not newer than it is."""
    listed = re.findall(r"(\d+)\.(\d)", _ext.build_info()["architectures"])
    versions = [(int(major), int(minor)) for major, minor in listed]
    for device in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(device)
        assert _ext.kernel_architecture(device) == max(v for v in versions if v <= capability)


def test_a_library_without_cuda_kernels_has_no_architecture(monkeypatch):
    monkeypatch.setattr(_ext, "build_info", lambda: {"torch": "2.11.0", "compiler": "g++ 12.2.0"})
    with pytest.raises(RuntimeError, match="the compiled library has no CUDA kernels; build it with `make setup`"):
        _ext.kernel_architecture(0)


def test_absent(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(_ext, "__file__", str(tmp_path / "_ext.py"))
    assert not load()
    assert not _ext.defines(["ssm_core::selective_scan"])
    # Objects that Python collects meanwhile, such as an unclosed file, may cause warnings of other kinds.
    assert UserWarning not in {w.category for w in recwarn}, "the operator that then runs slowly is to warn"


def test_damaged_or_of_another_torch(tmp_path, monkeypatch):
    (tmp_path / "_C.abi3.so").write_bytes(b"not a library")
    monkeypatch.setattr(_ext, "__file__", str(tmp_path / "_ext.py"))
    with pytest.warns(UserWarning, match=r"_C.abi3.so does not load with torch .* build it with `make setup`"):
        assert not load()


@pytest.fixture
def registered(monkeypatch):
    """Return a copy of the compiled operators. It and a copy of all operators take their places during the test."""
    operators = dict(registry._COMPILED)
    monkeypatch.setattr(registry, "_COMPILED", operators)
    monkeypatch.setattr(registry, "_DECLARED", dict(registry._DECLARED))
    return operators


@pytest.mark.parametrize(
    "operator",
    [
        Operator("ssm_core::of_tomorrow", needs=("ssm_core::selective_scan",)),
        Operator("ssm_core::selective_scan_backward", needs=("ssm_core::of_tomorrow",)),
    ],
    ids=["operator", "what it needs"],
)
def test_older_than_the_python_code(operator, registered):
    """The missing operator falls back to its reference, and the others keep their kernels."""
    before = list(registered)
    message = (
        r"_C\..* is older than the Python code: it lacks ssm_core::of_tomorrow\. Using the slow PyTorch reference of "
        rf"{operator.name}; build it with `make setup`"
    )
    with pytest.warns(UserWarning, match=message):
        assert not register(operator)
    assert list(registered) == before
    assert not has_kernel(operator.name, "cpu")
    assert has_kernel("ssm_core::selective_scan", "cpu")


def test_a_missing_operator_warns_once_when_it_is_called(recwarn):
    _ext._warn_slow_once.cache_clear()
    for _ in range(2):
        assert choose_backend("of_tomorrow", "ssm_core::of_tomorrow", "auto", torch.device("cpu")) == "reference"
    words = [str(w.message) for w in recwarn if w.category is UserWarning]
    assert len(words) == 1
    assert words[0].startswith("of_tomorrow has no compiled kernel for cpu here and runs its slow PyTorch reference")
    with pytest.raises(ValueError, match="of_tomorrow: backend 'cpu' was asked for but its kernel is not built"):
        choose_backend("of_tomorrow", "ssm_core::of_tomorrow", "cpu", torch.device("cpu"))


def test_an_operator_is_registered_once(registered):
    name = "ssm_core::selective_scan"
    with pytest.raises(ValueError, match=f"the operator {name} is registered already"):
        register(registered[name])


CALLS = """
import sys
import warnings

import torch

from quadtree_ssm.ops import quadtree_order
from quadtree_ssm.ops.quadtree_order import mask_gradient
from ssm_core.ops import depthwise_conv, directional_scan, gated_layer_norm, gated_rms_norm, layer_norm
from ssm_core.ops import residual_layer_norm, residual_rms_norm, rms_norm, selective_scan
from tree_ssm.ops import grid_distances, minimum_spanning_tree, selective_tree_scan, state_readout, subtree_scan
from tree_ssm.ops import Tree, gated_state_readout, token_distances, tree_scan

torch.manual_seed(0)
x, B, C = torch.randn(1, 6, 4), torch.randn(1, 6, 2), torch.randn(1, 6, 2)
A, bias, choice = -torch.rand(4, 2), torch.randn(4), torch.tensor([2])
tree = Tree(torch.tensor([[0, 0, 1, 2, 3, 4]]), torch.arange(6).unsqueeze(0))
calls = {
    selective_scan: (x.mT, x.mT, A, B.mT, C.mT, bias, None, bias, True),
    directional_scan: (x, x.unsqueeze(1), A.unsqueeze(0), B.unsqueeze(1), C.unsqueeze(1)),
    quadtree_order: (choice, 2, 3),
    mask_gradient: (x, x, choice, 2, 3),
    grid_distances: (x.view(1, 2, 3, 4),),
    minimum_spanning_tree: (torch.rand(1, 7), 2, 3),
    tree_scan: (x, x.sigmoid(), tree),
    selective_tree_scan: (x, x, A[:, 0], B[..., 0], bias, tree),
    subtree_scan: (x, x, A, B, C, bias, tree),
    token_distances: (x, x, bias, B, torch.tensor([0]), torch.tensor([6])),
    state_readout: (x, x, B[..., 0], bias, bias, bias),
    gated_state_readout: (x, x, B[..., 0], bias, bias, bias, x, bias, bias),
    layer_norm: (x, bias, bias),
    rms_norm: (x, bias),
    gated_layer_norm: (x, x, bias, bias),
    gated_rms_norm: (x, x, bias),
    residual_layer_norm: (x, x, bias, bias),
    residual_rms_norm: (x, x, bias),
    depthwise_conv: (x.view(1, 2, 3, 4), torch.rand(4, 1, 3, 3), bias),
}
results, warned = {}, {}
for function, arguments in calls.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            result = function(*arguments)
            # The type of a named tuple is not for a file.
            results[function.__name__] = tuple(result) if function.__name__.startswith("residual") else result
    warned[function.__name__] = [str(w.message) for w in caught]
torch.save((results, warned), sys.argv[1])
"""


def test_every_operator_works_without_the_library(tmp_path):
    """A program runs with the packages, and with copies that have no library.

    The results are equal, and without the library each function warns once.
    """
    without = shutil.ignore_patterns("_C*", "__pycache__")
    for package in ("ssm_core", "quadtree_ssm", "tree_ssm"):
        shutil.copytree(ROOT / package, tmp_path / "copy" / package, ignore=without)
    runs = []
    for packages in (ROOT, tmp_path / "copy"):
        environment = {**os.environ, "PYTHONPATH": str(packages)}
        command = [sys.executable, "-c", CALLS, tmp_path / "results.pt"]
        subprocess.run(command, check=True, cwd=tmp_path, env=environment)
        runs.append(torch.load(tmp_path / "results.pt", weights_only=False))
    (compiled, quiet), (references, warned) = runs
    assert not any(quiet.values())
    for name, expected in compiled.items():
        words = warned[name]
        # On a CPU the reference always computes the distances of tokens.
        assert len(words) == (name != "token_distances"), words
        assert all(f"{name} has no compiled kernel for cpu here" in word for word in words)
        torch.testing.assert_close(references[name], expected)
