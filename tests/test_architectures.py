"""Tests of libraries that are built for other GPUs than the one that is here.

Each test builds a library, which takes minutes, so they run only with ``-m rebuild`` (CONTRIBUTING.md).
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.gpu, pytest.mark.rebuild]


def run(arguments, folder, **environment):
    """Run Python in a copy of the repository and return what it prints and whether it succeeds."""
    environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout, done.returncode == 0


@pytest.fixture
def build(tmp_path):
    """Return a function that builds the library for some architectures in a copy of the repository."""

    def build(architectures):
        folder = tmp_path / "repository"
        leave = shutil.ignore_patterns(
            ".*", "build", "site", "shared", "work_dirs", "__pycache__", "*.so", "*.egg-info"
        )
        shutil.copytree(ROOT, folder, ignore=leave)
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
        text, ok = run(
            ["setup.py", "build_ext", "--inplace"],
            folder,
            FORCE_CUDA="1",
            TORCH_CUDA_ARCH_LIST=architectures,
            MAX_JOBS=jobs,
        )
        assert ok, text[-4000:]
        return folder

    return build


@pytest.mark.parametrize("architectures", ["8.0+PTX"])
def test_gpu_suite_with_kernels_of_an_older_architecture(build, architectures):
    """The driver translates the kernels for a newer GPU. They know nothing of what it has beyond theirs."""
    assert torch.cuda.get_device_capability() >= (9, 0), "a GPU with clusters is needed"
    folder = build(architectures)
    workers = ["--numprocesses", "8", "--dist", "loadfile"] if importlib.util.find_spec("xdist") else []
    text, ok = run(["-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-r", "fE", *workers], folder)
    assert ok, text[-8000:]
    print(text.splitlines()[-1])
    code = "from ssm_core import _ext; print(_ext.kernel_architecture(0))"
    assert run(["-c", code], folder)[0].splitlines()[-1] == "(8, 0)"


CALLS = """
import torch
from ssm_core import _ext
from ssm_core.ops import selective_scan

def refused(call):
    try:
        call()
    except RuntimeError as error:
        print(str(error).splitlines()[0])

x, row = torch.ones(1, 8, 16, device="cuda"), torch.ones(1, 1, 16, device="cuda")
refused(lambda: _ext.kernel_architecture(0))
refused(lambda: selective_scan(x, x, -torch.ones(8, 1, device="cuda"), row, row))
print(float(x.sum()))
"""


def test_a_gpu_without_kernels_is_refused_in_a_sentence(build):
    """What was built for 7.5 alone, without PTX code, runs on no GPU of 8.0 and later."""
    assert torch.cuda.get_device_capability() >= (8, 0)
    text, ok = run(["-c", CALLS], build("7.5"))
    assert ok, text[-4000:]
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    sentence = (
        f"the compiled library is for compute capability 7.5 and has no kernel for {name}, which has {major}.{minor}; "
        f"build the library again with TORCH_CUDA_ARCH_LIST={major}.{minor}"
    )
    expected = [f"kernel_architecture: {sentence}", f"selective_scan: {sentence}", "128.0"]
    assert text.splitlines()[-3:] == expected
