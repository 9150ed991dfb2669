"""Links the library from objects of ``dev/volta.py --objects``, in place, on a machine with any newer GPU.

    python dev/link_volta.py FOLDER

The C++ sources are compiled here. The driver translates the objects' kernels, which are
those of a V100, when they are first used. ``CUDA_HOME`` names the CUDA toolkit if it is not in
/usr/local/cuda. Build the library again afterwards.
"""

import argparse
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from sysconfig import get_path

# cpp_extension reads it when it is imported.
os.environ.setdefault("CUDA_HOME", "/usr/local/cuda")
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "csrc"
FLAGS = [
    "-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fopenmp", "-fno-math-errno", "-fno-trapping-math",
    "-Wno-psabi", "-DNDEBUG", "-DPy_LIMITED_API=0x030A0000", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-DUSE_CUDA",
    '-DSSM_CUDA_ARCHITECTURES="7.0+PTX"',
]  # fmt: skip


def compile_source(source: Path, folder: Path) -> str:
    """Compile a C++ source and return its object."""
    target = folder / str(source.relative_to(SOURCES).with_suffix(".o")).replace("/", "_")
    folders = [f"-I{path}" for path in (SOURCES, *cpp_extension.include_paths("cuda"), get_path("include"))]
    late = [f"-idirafter{path}" for path in sorted(Path(get_path("purelib")).glob("nvidia/*/include"))]
    subprocess.run(["c++", *FLAGS, *folders, *late, "-c", str(source), "-o", str(target)], check=True)
    return str(target)


def main() -> None:
    """Compile the C++ sources and link them with the objects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", type=Path, help="the folder of the objects")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many compilers run at a time")
    arguments = parser.parse_args()
    kernels = sorted(str(path) for path in arguments.objects.glob("*.o"))
    sources = len(list(SOURCES.rglob("*.cu")))
    if len(kernels) != sources:
        raise SystemExit(f"error: {arguments.objects} has {len(kernels)} objects for {sources} sources")
    scratch = ROOT / "build" / "volta" / "linked"
    scratch.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        objects = list(pool.map(lambda source: compile_source(source, scratch), sorted(SOURCES.rglob("*.cpp"))))
    libraries = [f"-L{path}" for path in cpp_extension.library_paths("cuda")]
    names = ["-lc10", "-ltorch_cpu", "-Wl,--no-as-needed,-ltorch,--as-needed"]
    names += ["-lcudart_static", "-lrt", "-ldl", "-lpthread"]
    target = ROOT / "ssm_core" / "_C.abi3.so"
    subprocess.run(
        ["c++", "-shared", "-fopenmp", *objects, *kernels, *libraries, *names, "-o", str(target)], check=True
    )
    print(target)


if __name__ == "__main__":
    main()
