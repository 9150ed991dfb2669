"""Tests of what setup.py says about the GPUs that the library is to be built for. Nothing is compiled here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
# What `nvcc --list-gpu-arch` of two releases prints.
OF_CUDA_12 = "50 52 53 60 61 62 70 72 75 80 86 87 89 90"
OF_CUDA_13 = "75 80 86 87 88 89 90 100 110 103 120 121"

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")


def configure(folder, listed, architectures):
    """Run setup.py with a toolkit whose compiler lists these architectures. Return what it prints and its status."""
    (folder / "bin").mkdir()
    (folder / "include").mkdir()
    (folder / "include" / "cuda_runtime.h").touch()
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\n" + "".join(f"echo compute_{number}\n" for number in listed.split()))
    nvcc.chmod(0o755)
    # Without a GPU of its own, so that the default does not depend on the machine.
    environment = {**os.environ, "CUDA_HOME": str(folder), "FORCE_CUDA": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name in ("NO_CUDA", "NO_EXTENSION", "TORCH_CUDA_ARCH_LIST"):
        environment.pop(name, None)
    if architectures is not None:
        environment["TORCH_CUDA_ARCH_LIST"] = architectures
    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    return done.stdout + done.stderr, done.returncode


@pytest.mark.parametrize(
    ("listed", "architectures", "expected"),
    [
        (OF_CUDA_12, "7.0", "7.0"),
        (OF_CUDA_12, "7.0;9.0+PTX", "7.0;9.0+PTX"),
        (OF_CUDA_13, "9.0a;12.0+PTX", "9.0a;12.0+PTX"),
        (OF_CUDA_13, "Hopper", "Hopper"),
        (OF_CUDA_13, None, "8.0;9.0+PTX"),
        (OF_CUDA_12, "", "8.0;9.0+PTX"),
    ],
)
def test_what_is_built(tmp_path, listed, architectures, expected):
    text, status = configure(tmp_path, listed, architectures)
    assert status == 0, text
    assert f"setup.py: kernels for compute capability {expected}\n" in text


@pytest.mark.parametrize(
    ("listed", "architectures", "sentence"),
    [
        (
            OF_CUDA_13,
            "7.0;8.0",
            "setup.py: TORCH_CUDA_ARCH_LIST names 7.0, and this CUDA toolkit compiles for 7.5, 8.0, 8.6, 8.7, 8.8, "
            "8.9, 9.0, 10.0, 10.3, 11.0, 12.0, 12.1 only; a V100 needs a CUDA 12 toolkit and a torch that is built "
            "for CUDA 12 (docs/troubleshooting.md)",
        ),
        (
            OF_CUDA_12,
            "12.0",
            "setup.py: TORCH_CUDA_ARCH_LIST names 12.0, and this CUDA toolkit compiles for 5.0, 5.2, 5.3, 6.0, 6.1, "
            "6.2, 7.0, 7.2, 7.5, 8.0, 8.6, 8.7, 8.9, 9.0 only",
        ),
        (
            OF_CUDA_12,
            "6.1 8.0",
            "setup.py: TORCH_CUDA_ARCH_LIST names 6.1, and the kernels need 7.0 (V100) or later",
        ),
    ],
)
def test_what_cannot_be_built_is_said_at_once(tmp_path, listed, architectures, sentence):
    text, status = configure(tmp_path, listed, architectures)
    assert status == 1
    assert text.splitlines()[-1] == sentence


@pytest.mark.parametrize(
    ("architectures", "expected"),
    [
        ("8.0;9.0+PTX", True),
        ("9.0", True),
        ("9.0a", True),
        ("Hopper", True),
        ("8.0+PTX", False),
        ("8.9;10.0;12.0+PTX", False),
    ],
)
def test_hoppers_sources_are_compiled_for_their_target(tmp_path, architectures, expected):
    text, status = configure(tmp_path, OF_CUDA_13, architectures)
    assert status == 0, text
    assert ("setup.py: kernels with Hopper's own instructions for 9.0a\n" in text) == expected
