"""Builds csrc into ssm_core/_C: C++ wherever a compiler is found, CUDA wherever a toolkit is; no GPU is needed.

Environment variables: FORCE_CUDA=1 fails instead of falling back when no CUDA toolkit is found, NO_CUDA=1 builds C++
only, NO_EXTENSION=1 builds nothing; TORCH_CUDA_ARCH_LIST and MAX_JOBS are those of torch.utils.cpp_extension.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
# Ampere (A800), Hopper (H100, H200); PTX of the newest lets later cards compile at start.
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"


def enabled(name: str) -> bool:
    """Whether an environment switch is set to anything but empty or 0."""
    return os.environ.get(name, "0") not in ("", "0")


def find_cuda_home() -> str | None:
    """The toolkit's folder: CUDA_HOME, or the newest folder under /usr/local that has headers as well as nvcc.

    An ``nvcc`` on PATH alone does not count: it may be a wrapper whose folder holds no toolkit.
    """
    candidates = [os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")]
    if (nvcc := shutil.which("nvcc")) is not None:
        candidates.append(str(Path(nvcc).resolve().parent.parent))
    candidates.append("/usr/local/cuda")
    candidates += [str(p) for p in sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    for folder in filter(None, candidates):
        if (Path(folder) / "bin" / "nvcc").exists() and (Path(folder) / "include" / "cuda_runtime.h").exists():
            return folder
    return None


def cuda_include_dirs() -> list[str]:
    """Headers of the CUDA libraries that torch's wheels bring, for toolkits that lack them (cusparse, cublas …)."""
    found = []
    for entry in map(Path, sys.path):
        found += [str(p) for p in sorted(entry.glob("nvidia/cu*/include"))]
        found += [str(p) for p in sorted(entry.glob("nvidia/*/include"))]
    return list(dict.fromkeys(found))


def extension_modules() -> tuple[list, dict]:
    """The extension and the command that builds it, or nothing when there is no compiler."""
    if enabled("NO_EXTENSION"):
        return [], {}
    if shutil.which(os.environ.get("CXX", "c++").split()[0]) is None:
        print("setup.py: no C++ compiler found, building without the compiled library (slow PyTorch references)")
        return [], {}

    # Every .cpp and .cu file below csrc is a source; those in a folder named cuda need the CUDA toolkit. Objects mirror
    # the paths of their sources, so that two folders may have files of the same name.
    files = sorted(p.relative_to(ROOT) for kind in ("*.cpp", "*.cu") for p in (ROOT / "csrc").rglob(kind))
    sources = [str(p) for p in files if "cuda" not in p.parts]
    cuda_sources = [str(p) for p in files if "cuda" in p.parts]
    cuda_home = None if enabled("NO_CUDA") or not cuda_sources else find_cuda_home()
    if cuda_home is not None:
        # torch.utils.cpp_extension reads CUDA_HOME when it is imported.
        os.environ["CUDA_HOME"] = cuda_home
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
    import torch
    from torch.utils import cpp_extension

    if torch.version.cuda is None:
        cuda_home = None
    if cuda_home is None and enabled("FORCE_CUDA"):
        raise SystemExit(
            "setup.py: FORCE_CUDA is set but there is no CUDA toolkit, no CUDA source or no CUDA build of torch; "
            "set CUDA_HOME to a folder that has bin/nvcc and include/cuda_runtime.h"
        )

    # No -std: torch's own default follows its version.
    # -fno-math-errno and -fno-trapping-math let loops vectorise and change no result; -g0 takes back the -g of a Python
    # that was built with it, six megabytes a file.
    # -Wno-psabi: GCC notes that vectors by value are passed differently with and without AVX; here all are inlined.
    cxx_flags = ["-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
    if sys.platform.startswith("linux"):
        cxx_flags.append("-fopenmp")
    options = {
        "py_limited_api": True,
        "extra_compile_args": {"cxx": cxx_flags},
        "include_dirs": [str(ROOT.resolve() / "csrc")],  # sources include each other by their paths below csrc
    }
    if cuda_home is None:
        extension = cpp_extension.CppExtension("ssm_core._C", sources, **options)
    else:
        # After the toolkit's own headers: those of the wheels can be of another release than its compiler.
        late = [f"-idirafter{folder}" for folder in cuda_include_dirs()]
        cxx_flags += late
        # Without -lineinfo, which is most of a library: NVCC_APPEND_FLAGS, nvcc's own variable, adds it for a profile.
        nvcc_flags = ["-O3", "--expt-relaxed-constexpr", *(f"-Xcompiler={flag}" for flag in late)]
        options["extra_compile_args"]["nvcc"] = nvcc_flags
        extension = cpp_extension.CUDAExtension("ssm_core._C", sources + cuda_sources, **options)

    class BuildExtension(cpp_extension.BuildExtension):
        """Keeps objects, which pip would throw away, so that the next build compiles what has changed alone."""

        def finalize_options(self) -> None:
            super().finalize_options()
            self.build_temp = str(ROOT / "build" / "objects")

    print(f"setup.py: building ssm_core._C for torch {torch.__version__}, CUDA from {cuda_home}")
    return [extension], {"build_ext": BuildExtension}


modules, commands = extension_modules()
setup(
    ext_modules=modules,
    cmdclass=commands,
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if modules else {},
)
