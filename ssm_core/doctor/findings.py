"""What the doctor found to be wrong, and what to do about it."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import ssm_core

PAGE = "docs/troubleshooting.md"


@dataclass(frozen=True)
class Finding:
    """Something that a user should know.

    Attributes:
        what: what is wrong.
        remedy: what to do, a sentence or a command.
        page: where to read about it.
        is_problem: whether anything is wrong, or only slower than it could be.
    """

    what: str
    remedy: str
    page: str = PAGE
    is_problem: bool = True

    def __str__(self) -> str:
        return f"{self.what}\n    {self.remedy}\n    See {self.page}."


def build_command(architecture: str | None = None) -> str:
    """The command that builds the compiled library again, from the beginning.

    Args:
        architecture: the compute capability of the card to build for, such as ``"9.0"``; None leaves the choice of
            cards and of CUDA to setup.py.
    """
    settings = f'FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="{architecture}" ' if architecture else ""
    root = Path(ssm_core.__file__).parents[1]
    if not (root / "setup.py").exists():
        python = shlex.quote(sys.executable)
        install = f"{settings}{python} -m pip install --no-build-isolation --no-deps --force-reinstall ."
        return f"cd FOLDER_OF_THE_SOURCES && rm -rf build && {install}"
    if Path(sys.prefix).parent == root:
        venv = Path(sys.prefix).name
        extras = "" if (Path(sys.prefix) / ".installed-all").exists() else " EXTRAS=train"
        return f"rm -rf build {venv}/.built-* && {settings}make setup{extras}"
    return f"rm -rf build && {settings}{shlex.quote(sys.executable)} setup.py build_ext --inplace"
