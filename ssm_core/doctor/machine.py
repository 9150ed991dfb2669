"""What this machine has: versions, the driver, the cards, the compilers and the settings of threads."""

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import torch

import ssm_core

from .findings import PAGE, Finding

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")


def versions() -> list[str]:
    """Lines on Python, torch and the compilers."""
    cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU alone"
    return [
        f"ssm_core {ssm_core.__version__} in {Path(ssm_core.__file__).parent}",
        f"Python {platform.python_version()} ({sys.executable}), {platform.platform()}",
        f"torch {torch.__version__}, {cuda}",
        f"C++ compiler: {_first_line([(os.environ.get('CXX', '').split() or ['c++'])[0], '--version'])}",
        f"CUDA compiler: {_nvcc()}",
    ]


def threads() -> tuple[list[str], list[Finding]]:
    """Lines on cores and threads, and whether other programs slow down those that wait for each other."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    settings = [f"{name}={os.environ[name]}" if name in os.environ else f"{name} not set" for name in THREAD_SETTINGS]
    lines = [
        f"{cores} cores, load {load:.1f}, torch computes with {torch.get_num_threads()} threads",
        ", ".join(settings),
    ]
    spins = os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive" and "GOMP_SPINCOUNT" not in os.environ
    if load <= cores or torch.get_num_threads() == 1 or not spins:
        return lines, []
    return lines, [
        Finding(
            f"Other programs keep the {cores} cores busy (load {load:.1f}), and threads spin while they wait. "
            "This can make a training many times slower.",
            "Set OMP_WAIT_POLICY=passive and GOMP_SPINCOUNT=1000, or OMP_NUM_THREADS=1, before Python starts.",
            f"{PAGE}#while-training",
            is_problem=False,
        )
    ]


def cards() -> tuple[list[str], list[Finding]]:
    """Lines on the driver and the GPUs, and why torch cannot use them if it cannot."""
    driver, number = driver_version(), _driver_name()
    if driver is None and number is None:
        return ["none"], []
    lines = [f"driver {number or 'of unknown version'}" + (f", for CUDA up to {_dotted(driver)}" if driver else "")]
    available, reason = _cuda_is_available()
    for index in range(torch.cuda.device_count() if available else 0):
        card = torch.cuda.get_device_properties(index)
        memory = f"{card.total_memory / 2**30:.0f} GiB"
        lines.append(f"cuda:{index}: {card.name}, compute capability {card.major}.{card.minor}, {memory}")
    problem = no_gpu(torch.version.cuda, driver, reason) if not available else None
    return lines, [] if problem is None else [problem]


def no_gpu(runtime: str | None, driver: int | None, reason: str) -> Finding:
    """Say why torch finds no GPU on a machine that has a driver for one.

    Args:
        runtime: the version of CUDA that torch was built for, such as ``"13.0"``; None for a torch without CUDA.
        driver: the newest version of CUDA that the driver knows, as it gives it (12040 is 12.4); None if it does not.
        reason: torch's own words.
    """
    page = f"{PAGE}#installing"
    if runtime is None:
        return Finding(
            f"torch {torch.__version__} is built for the CPU alone, and the GPU is not used.",
            "Install a torch with CUDA, and build the library again.",
            page,
        )
    major = int(runtime.split(".")[0])
    if driver is not None and driver // 1000 < major:
        return Finding(
            f"The GPU is not used: the driver knows CUDA up to {_dotted(driver)}, and torch is for CUDA {runtime}.",
            f"Update the driver to one for CUDA {major}, or install a torch for CUDA {driver // 1000} and build the "
            "library again.",
            page,
        )
    return Finding(
        f"There is a driver, and torch finds no GPU: {reason or 'it gives no reason'}.",
        "Look whether `nvidia-smi` lists the card, whether CUDA_VISIBLE_DEVICES hides it, and whether a container was "
        "started with its GPUs.",
        page,
    )


def architecture(device: torch.device) -> str:
    """The compute capability of a GPU, such as ``"9.0"``."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"


def driver_version() -> int | None:
    """The newest version of CUDA that the driver knows, as it gives it (12040 is 12.4), or None without a driver."""
    version = ctypes.c_int()
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return version.value if status == 0 and version.value else None


def _cuda_is_available() -> tuple[bool, str]:
    """Whether torch can use a GPU, and if not its own words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    return available, str(caught[0].message).split(". ")[0] if caught else ""


def _driver_name() -> str | None:
    """The driver's version as NVIDIA names it, such as 580.65.06."""
    file = Path("/proc/driver/nvidia/version")
    found = re.search(r"\d+\.\d+(\.\d+)?", file.read_text()) if file.exists() else None
    return found.group() if found else None


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _nvcc() -> str:
    """The release of nvcc, and where it is."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    found = [str(path) for home in homes if home and (path := Path(home) / "bin" / "nvcc").exists()]
    nvcc = found[0] if found else shutil.which("nvcc")
    if nvcc is None:
        return "none"
    release = re.search(r"release [\d.]+", _output([nvcc, "--version"]))
    return f"{nvcc}, {release.group() if release else 'which does not say its release'}"


def _first_line(command: list[str]) -> str:
    return (_output(command).splitlines() or ["none"])[0]


def _output(command: list[str]) -> str:
    """What a program prints, or nothing if it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
