"""Tests what the compiled library's sources include, and how their objects are named (csrc/README.md)."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "csrc"
LIGHT = {"torch/headeronly/macros/Macros.h", "torch/headeronly/util/BFloat16.h", "torch/headeronly/util/Half.h"}
STABLE = ("torch/csrc/stable/", "torch/headeronly/", "torch/csrc/inductor/aoti_torch/c/shim.h")
INCLUDE = re.compile(r'^\s*#\s*include\s+(?:<([^>]+)>|"([^"]+)")', re.MULTILINE)


def system_headers(path, seen):
    """Yield the system headers of a file and of all our files that it includes."""
    if path in seen:
        return
    seen.add(path)
    for system, own in INCLUDE.findall(path.read_text()):
        if system:
            yield system
        else:
            yield from system_headers(ROOT / own, seen)


def name(path):
    """Return a source's path below csrc, as a test's id."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.cu")), ids=name)
def test_what_nvcc_compiles_reads_light_headers_of_torch_alone(path):
    headers = set(system_headers(path, set()))
    assert {header for header in headers if header.startswith(("ATen/", "c10/", "torch/"))} <= LIGHT
    assert headers


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.cpp")), ids=name)
def test_hosts_use_the_stable_abi_alone(path):
    headers = set(system_headers(path, set()))
    torchs = {header for header in headers if header.startswith(("ATen/", "c10/", "torch/"))}
    assert {header for header in torchs if not header.startswith(STABLE)} == set()


def test_no_two_sources_of_a_folder_make_the_same_object():
    objects = [path.with_suffix(".o") for kind in ("*.cu", "*.cpp") for path in ROOT.rglob(kind)]
    assert objects
    assert len(objects) == len(set(objects))


def test_cuda_sources_are_in_folders_of_that_name():
    """Without a CUDA toolkit, setup.py leaves out the folders of this name."""
    assert {path.parent.name for kind in ("*.cu", "*.cuh") for path in ROOT.rglob(kind)} == {"cuda"}


def test_only_the_kernels_attributes_decide_about_clusters():
    """The device may be newer than what its kernels were compiled for, and then they have no code for clusters."""
    asks_the_device = re.compile(r"(\.|->)(major|minor|capability)\b|ComputeCapability|cudaDevAttr")
    allowed = {"common/cuda/architecture.cpp", "common/cuda/device.cpp"}
    allowed.add("common/cuda/launch.cpp")  # for what its errors say
    paths = [path for kind in ("*.cpp", "*.h", "*.cu", "*.cuh") for path in ROOT.rglob(kind)]
    found = {name(path) for path in paths if asks_the_device.search(path.read_text())}
    assert found == allowed


def test_kernels_are_launched_in_one_place():
    """That place, launch_pointers, refuses what the kernel, as it was compiled, cannot do."""
    launches = re.compile(r"<<<|cudaLaunch(Cooperative)?Kernel\w*\(|cuLaunchKernel")
    paths = [path for kind in ("*.cpp", "*.h", "*.cu", "*.cuh") for path in ROOT.rglob(kind)]
    assert {name(path) for path in paths if launches.search(path.read_text())} == {"common/cuda/launch.cpp"}
