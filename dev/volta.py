"""Compiles the CUDA sources for the V100 (compute capability 7.0) on machines without a CUDA 12 toolkit.

CUDA 13 has no compiler for the V100. clang 19 has one; it needs the headers and the assembler (``ptxas``) of CUDA 12,
which are packages. Once:

    apt-get install clang-19
    pip install --no-deps --target build/volta/packages -r requirements/volta.txt

``python dev/volta.py`` compiles every source and lists registers and spills of the kernels. It keeps the results in
``build/volta`` and compiles only what has changed. ``tests/test_volta.py`` does the same.

``python dev/volta.py --objects FOLDER`` makes objects for a library instead. They hold PTX code for 7.0, which the
driver of a newer GPU translates, so that the V100's kernels can be tested without a V100. ``dev/link_volta.py`` links
them. Only this needs ``fatbinary``, from any CUDA toolkit.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "csrc"
FOLDER = ROOT / "build" / "volta"
PACKAGES = FOLDER / "packages" / "nvidia"
COMPILER = "clang++-19"
CAPABILITY = "70"
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)

# ptxas describes a kernel in several lines, which begin with its name.
KERNEL = re.compile(
    r"Compiling entry function '(?P<name>[^']+)'.*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


class CompileError(Exception):
    """A source does not compile for the V100; the message is the compiler's."""


@dataclass(frozen=True)
class Kernel:
    """What the assembler says of a kernel: registers of a thread, and bytes that a thread spills to memory."""

    name: str
    registers: int
    stores: int
    loads: int


def missing() -> str | None:
    """Return what is missing to compile for the V100, as a sentence, or None."""
    if shutil.which(COMPILER) is None:
        return f"{COMPILER} is not installed (apt-get install clang-19)"
    if not (PACKAGES / "cuda_nvcc" / "bin" / "ptxas").exists():
        target = (FOLDER / "packages").relative_to(ROOT)
        return f"CUDA 12's headers are missing (pip install --no-deps --target {target} -r requirements/volta.txt)"
    return None


def toolkit() -> Path:
    """Arrange the packages as the toolkit's folder that clang looks for, once, and return that folder."""
    folder = FOLDER / "cuda"
    if folder.exists():
        return folder
    scratch = FOLDER / "cuda.new"
    shutil.rmtree(scratch, ignore_errors=True)
    for package in ("cuda_runtime", "cuda_nvcc", "cuda_cccl", "curand"):
        shutil.copytree(PACKAGES / package / "include", scratch / "include", dirs_exist_ok=True)
    shutil.copytree(PACKAGES / "cuda_nvcc" / "nvvm", scratch / "nvvm")
    shutil.copytree(PACKAGES / "cuda_nvcc" / "bin", scratch / "bin")
    scratch.replace(folder)
    return folder


def clang(source: Path, *arguments: str) -> list[str]:
    """Return the command that compiles a source."""
    from torch.utils.cpp_extension import include_paths

    return [
        COMPILER, "-x", "cuda", f"--cuda-path={toolkit()}", f"--cuda-gpu-arch=sm_{CAPABILITY}", "-std=c++20", "-O3",
        "-DNDEBUG", "-D__CUDA_NO_HALF_OPERATORS__", "-D__CUDA_NO_HALF_CONVERSIONS__",
        "-D__CUDA_NO_BFLOAT16_CONVERSIONS__", "-D__CUDA_NO_HALF2_OPERATORS__",
        # clang 19 knows CUDA up to 12.5, ignores __grid_constant__, and unrolls fewer loops than nvcc.
        "-Wno-unknown-cuda-version", "-Wno-unknown-attributes", "-Wno-pass-failed",
        # nvcc leaves no calls in a kernel. Where clang did, the driver's translation for 9.0 lost a closure's address.
        "-mllvm", "-inline-threshold=100000",
        f"-I{SOURCES}", *(f"-isystem{path}" for path in include_paths()), *arguments, str(source),
    ]  # fmt: skip


def run(command: list[str]) -> str:
    """Run a compiler and return what it says."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise CompileError(done.stdout[-4000:])
    return done.stdout


def own_files(path: Path, seen: set[Path]) -> set[Path]:
    """Return a source and all our files that it includes."""
    if path not in seen:
        seen.add(path)
        for name in INCLUDE.findall(path.read_text()):
            own_files(SOURCES / name, seen)
    return seen


def compile_kernels(source: Path) -> list[Kernel]:
    """Compile a source to machine code and return its kernels. What has not changed is not compiled again.

    Raises:
        CompileError: clang or the assembler refuses the source.
    """
    command = clang(source, "--cuda-device-only", "-S")
    text = "\n".join([*command, *(path.read_text() for path in sorted(own_files(source, set())))])
    base = FOLDER / "kernels" / hashlib.sha256(text.encode()).hexdigest()
    said = base.with_suffix(".txt")
    if not said.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        ptx = base.with_suffix(".ptx")
        run([*command, "-o", str(ptx)])
        ptxas = str(toolkit() / "bin" / "ptxas")
        report = run([ptxas, f"-arch=sm_{CAPABILITY}", "-v", str(ptx), "-o", str(base.with_suffix(".cubin"))])
        said.write_text(report)
    # Names as they are in the source.
    readable = subprocess.run(["c++filt"], input=said.read_text(), text=True, capture_output=True, check=True).stdout
    return [
        Kernel(found["name"], int(found["registers"]), int(found["stores"]), int(found["loads"]))
        for found in KERNEL.finditer(readable)
    ]


def compile_object(source: Path, folder: Path) -> Path:
    """Compile a source to an object for a library, which holds PTX code alone."""
    name = str(source.relative_to(SOURCES).with_suffix(".o")).replace("/", "_")
    command = clang(source, "-c", f"--cuda-include-ptx=sm_{CAPABILITY}", "-fPIC", "-fvisibility=hidden")
    run([*command, "-o", str(folder / name)])
    return folder / name


FATBINARY = """#!/bin/sh
# clang 19 names images as CUDA 12 takes them. Leaves out the machine code, and names the PTX code as CUDA 13 takes it.
for argument; do
  shift
  case "$argument" in
    --image=profile=sm_*) continue ;;
    --image=profile=compute_{capability},*) argument="--image3=kind=ptx,sm={capability},${{argument#*,}}" ;;
  esac
  set -- "$@" "$argument"
done
exec {fatbinary} "$@"
"""


def make_objects(sources: list[Path], folder: Path, jobs: int) -> None:
    """Make the objects of a library."""
    fatbinary = shutil.which("fatbinary", path="/usr/local/cuda/bin") or shutil.which("fatbinary")
    if fatbinary is None:
        raise SystemExit("error: fatbinary is not found; it is part of every CUDA toolkit")
    wrapper = toolkit() / "bin" / "fatbinary"
    wrapper.write_text(FATBINARY.format(capability=CAPABILITY, fatbinary=fatbinary))
    wrapper.chmod(0o755)
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        for path in pool.map(lambda source: compile_object(source, folder), sources):
            print(path)


def main() -> None:
    """Compile all sources and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path, metavar="FOLDER", help="make the objects of a library in this folder")
    parser.add_argument("--jobs", type=int, default=2, help="how many compilers run at a time")
    arguments = parser.parse_args()
    if (reason := missing()) is not None:
        raise SystemExit(f"error: {reason}")
    toolkit()
    sources = sorted(SOURCES.rglob("*.cu"))
    if arguments.objects is not None:
        return make_objects(sources, arguments.objects, arguments.jobs)
    print("registers  spilled and read again, bytes  kernel")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for kernels in pool.map(compile_kernels, sources):
            for kernel in kernels:
                print(f"{kernel.registers:9}  {kernel.stores:13} {kernel.loads:16}  {kernel.name}")


if __name__ == "__main__":
    main()
