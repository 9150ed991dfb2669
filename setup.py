"""Builds the sources in csrc into the library ssm_core/_C.

The C++ sources are built if there is a compiler. The CUDA sources are built if there is also a CUDA toolkit. The build
needs no GPU.

These environment variables change the build:

- FORCE_CUDA=1: stop with an error if the CUDA sources cannot be built.
- NO_CUDA=1: build only the C++ sources.
- NO_EXTENSION=1: build nothing.
- SANITIZE=address,undefined: build the C++ sources for GCC's sanitizers, which find accesses outside of memory. Python
  then has to be started with them; CONTRIBUTING.md has the commands.
- TORCH_CUDA_ARCH_LIST: the compute capabilities to build for, such as "7.0;8.0;9.0+PTX". Without it, the library is for
  8.0, 9.0 and later, and for older GPUs of this machine.
- MAX_JOBS: how many compilers run at a time.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).parent
# Ampere (A800) and Hopper (H100, H200). The driver of a later GPU compiles the PTX code when a program starts.
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"
OLDEST = (7, 0)  # Volta (V100)
FOR_VOLTA = "a V100 needs a CUDA 12 toolkit and a torch that is built for CUDA 12 (docs/troubleshooting.md)"


def enabled(name: str) -> bool:
    """Return whether an environment variable is set. The values "" and "0" count as not set."""
    return os.environ.get(name, "0") not in ("", "0")


def find_cuda_home() -> str | None:
    """Return the folder of the CUDA toolkit, or None.

    The candidates are CUDA_HOME or CUDA_PATH, the folder of the ``nvcc`` on PATH, /usr/local/cuda, and the folders
    /usr/local/cuda-* with the newest first. A toolkit must contain headers as well as ``nvcc``, because the ``nvcc`` on
    PATH may be a wrapper without a toolkit.
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
    """Return the header folders of the CUDA libraries (such as cublas) in torch's wheels. Some toolkits lack them."""
    found = []
    for entry in map(Path, sys.path):
        found += [str(p) for p in sorted(entry.glob("nvidia/cu*/include"))]
        found += [str(p) for p in sorted(entry.glob("nvidia/*/include"))]
    return list(dict.fromkeys(found))


def capabilities(text: str, pattern: str) -> list[tuple[int, int]]:
    """Return the compute capabilities that a pattern of two groups, major and minor, finds in a text."""
    return sorted({(int(major), int(minor)) for major, minor in re.findall(pattern, text)})


def check_architectures(architectures: str, supported: list[tuple[int, int]]) -> None:
    """Stop if the kernels or the compiler do not support an architecture. The compiler's own errors come much later."""
    for major, minor in capabilities(architectures, r"\b(\d+)\.(\d)"):
        asked = f"TORCH_CUDA_ARCH_LIST names {major}.{minor}"
        if (major, minor) < OLDEST:
            raise SystemExit(f"setup.py: {asked}, and the kernels need {OLDEST[0]}.{OLDEST[1]} (V100) or later")
        if supported and (major, minor) not in supported:
            of_nvcc = ", ".join(f"{first}.{second}" for first, second in supported)
            advice = f"; {FOR_VOLTA}" if (major, minor) < supported[0] else ""
            raise SystemExit(f"setup.py: {asked}, and this CUDA toolkit compiles for {of_nvcc} only{advice}")


def default_architectures(cards: list[tuple[int, int]], supported: list[tuple[int, int]]) -> str:
    """Return the architectures to build for if none are asked for: the usual ones and those of this machine's cards."""
    chosen = []
    for major, minor in sorted(set(cards)):
        if (major, minor) >= (8, 0):
            continue
        if (major, minor) >= OLDEST and (not supported or (major, minor) in supported):
            chosen.append(f"{major}.{minor}")
        else:
            advice = f": {FOR_VOLTA}" if (major, minor) >= OLDEST else ""
            print(f"setup.py: the library will not run on this machine's GPU of {major}.{minor}{advice}")
    return ";".join([*chosen, DEFAULT_ARCHITECTURES])


def choose_architectures(cuda_home: str) -> None:
    """Set TORCH_CUDA_ARCH_LIST if it is not set, and check it if it is."""
    import torch

    command = [str(Path(cuda_home) / "bin" / "nvcc"), "--list-gpu-arch"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    supported = capabilities(listed, r"compute_(\d+)(\d)\b")
    if architectures := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        check_architectures(architectures, supported)
        return
    cards = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    os.environ["TORCH_CUDA_ARCH_LIST"] = default_architectures(cards, supported)


def hopper_flags(architectures: str) -> list[str]:
    """Return nvcc's flags for the sources of Hopper's own instructions, which the target sm_90a alone has.

    It runs on GPUs of 9.0 and no others. The list is empty if the library is not for them: then these sources are
    compiled as all others are, and have no code.
    """
    named = capabilities(architectures.replace("Hopper", "9.0"), r"\b(\d+)\.(\d)")
    return ["-gencode=arch=compute_90a,code=sm_90a"] if (9, 0) in named else []


def extension_modules() -> tuple[list, dict]:
    """Return the extension and the command that builds it. Both are empty if there is no compiler."""
    if enabled("NO_EXTENSION"):
        return [], {}
    if shutil.which(os.environ.get("CXX", "c++").split()[0]) is None:
        print("setup.py: no C++ compiler found, building without the compiled library (slow PyTorch references)")
        return [], {}

    # Every .cpp and .cu file below csrc is a source. Files in a folder named cuda need the CUDA toolkit. Object files
    # have the same relative paths as their sources, so that two folders can contain files of the same name.
    files = sorted(p.relative_to(ROOT) for kind in ("*.cpp", "*.cu") for p in (ROOT / "csrc").rglob(kind))
    sources = [str(p) for p in files if "cuda" not in p.parts]
    cuda_sources = [str(p) for p in files if "cuda" in p.parts]
    cuda_home = None if enabled("NO_CUDA") or not cuda_sources else find_cuda_home()
    if cuda_home is not None:
        # torch.utils.cpp_extension reads CUDA_HOME when it is imported.
        os.environ["CUDA_HOME"] = cuda_home
    import torch
    from torch.utils import cpp_extension

    if torch.version.cuda is None:
        cuda_home = None
    if cuda_home is None and enabled("FORCE_CUDA"):
        raise SystemExit(
            "setup.py: FORCE_CUDA is set but there is no CUDA toolkit, no CUDA source or no CUDA build of torch; "
            "set CUDA_HOME to a folder that has bin/nvcc and include/cuda_runtime.h"
        )

    # The sources use torch's stable ABI alone, as it was in this release: the library serves it and every later one.
    # There is no -std flag, because each version of torch sets the standard that it needs.
    # -fno-math-errno and -fno-trapping-math allow the compiler to vectorise loops. They change no result.
    # -g0 cancels the -g flag that some builds of Python add, because it costs six megabytes per file.
    # -Wno-psabi silences GCC's note that AVX changes how functions receive vectors. We inline all such functions.
    stable = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # 2.10
    cxx_flags = [stable, "-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
    if sys.platform.startswith("linux"):
        cxx_flags.append("-fopenmp")
    # -fno-wrapv cancels Python's own flag, under which no overflow is an error.
    sanitize = [f"-fsanitize={os.environ['SANITIZE']}"] if enabled("SANITIZE") else []
    if sanitize:
        cxx_flags += [*sanitize, "-fno-sanitize-recover=all", "-fno-wrapv", "-fno-omit-frame-pointer", "-O1", "-g1"]
    options = {
        "py_limited_api": True,
        "extra_compile_args": {"cxx": cxx_flags},
        "extra_link_args": sanitize,
        "include_dirs": [str(ROOT.resolve() / "csrc")],  # the sources write include paths relative to csrc
    }
    if cuda_home is None:
        extension = cpp_extension.CppExtension("ssm_core._C", sources, **options)
    else:
        choose_architectures(cuda_home)
        # The headers of the wheels are searched last, because their release can differ from that of the compiler.
        late = [f"-idirafter{folder}" for folder in cuda_include_dirs()]
        cxx_flags += late
        # csrc/build_info.cpp tells it to `tree-ssm doctor` and to error messages.
        cxx_flags.append("-DUSE_CUDA")  # what the stable ABI has for CUDA
        cxx_flags.append(f'-DSSM_CUDA_ARCHITECTURES="{os.environ["TORCH_CUDA_ARCH_LIST"]}"')
        # -lineinfo is left out, because it would make up most of the library. To profile kernels, add it with nvcc's
        # environment variable NVCC_APPEND_FLAGS.
        nvcc_flags = ["-O3", "--expt-relaxed-constexpr", *(f"-Xcompiler={flag}" for flag in late)]
        options["extra_compile_args"]["nvcc"] = nvcc_flags
        extension = cpp_extension.CUDAExtension("ssm_core._C", sources + cuda_sources, **options)
        # The CUDA runtime becomes part of the library, because releases of torch bring different ones. The library
        # names none of torch's CUDA libraries, so that a torch without CUDA loads it too. libtorch names those that
        # there are.
        others = [name for name in extension.libraries if name not in ("cudart", "c10_cuda", "torch_cuda")]
        extension.libraries = [*others, "cudart_static", "rt", "dl", "pthread"]
        extension.extra_link_args = [*sanitize, "-Wl,--push-state,--no-as-needed,-ltorch,--pop-state"]

    class BuildExtension(cpp_extension.BuildExtension):
        """Builds the library.

        It keeps the object files, which pip would delete, so that the next build compiles only changed sources.
        """

        def build_extension(self, ext: Extension) -> None:
            """Compile the sources of Hopper's own instructions first, since they have a target of their own."""
            of_hopper = [source for source in ext.sources if Path(source).match("cuda/hopper_*.cu")]
            flags = hopper_flags(os.environ["TORCH_CUDA_ARCH_LIST"]) if of_hopper else []
            if flags:
                ext.sources = [source for source in ext.sources if source not in of_hopper]
                arguments = {**ext.extra_compile_args, "nvcc": [*ext.extra_compile_args["nvcc"], *flags]}
                folder = str(Path(self.build_temp) / "hopper")  # ninja keeps one list of objects in a folder
                ext.extra_objects += self.compiler.compile(
                    of_hopper,
                    output_dir=folder,
                    include_dirs=ext.include_dirs,
                    extra_postargs=arguments,
                    depends=ext.depends,
                )
            super().build_extension(ext)

        def finalize_options(self) -> None:
            super().finalize_options()
            self.build_temp = str(ROOT / "build" / ("sanitized" if sanitize else "objects"))

    print(f"setup.py: building ssm_core._C for torch {torch.__version__}, CUDA from {cuda_home}")
    if cuda_home is not None:
        print(f"setup.py: kernels for compute capability {os.environ['TORCH_CUDA_ARCH_LIST']}")
        if hopper_flags(os.environ["TORCH_CUDA_ARCH_LIST"]):
            print("setup.py: kernels with Hopper's own instructions for 9.0a")
    return [extension], {"build_ext": BuildExtension}


class EggInfo(egg_info):
    """Names ssm_train first among the packages: mim looks for configs in the first one alone."""

    def run(self) -> None:
        """Write the list anew."""
        super().run()
        names = Path(self.egg_info) / "top_level.txt"
        ordered = sorted(names.read_text().split(), key=lambda name: (name != "ssm_train", name))
        names.write_text("".join(f"{name}\n" for name in ordered))


modules, commands = extension_modules()
setup(
    ext_modules=modules,
    cmdclass={"egg_info": EggInfo, **commands},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if modules else {},
)
