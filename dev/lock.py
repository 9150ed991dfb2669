"""Renews the lists of exact packages in requirements/: python dev/lock.py [arguments of `uv pip compile`].

lock.txt has every package of all extras. Versions that it has already are kept; `--upgrade-package NAME` moves one.
train.txt has the lines of lock.txt that the extra `train` needs. uv is to be installed.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
EXTRAS = ("train", "det", "seg", "lm", "explore", "export", "docs", "dev")


def compiled(extras: tuple[str, ...], lock: Path, *arguments: str) -> list[str]:
    """The lines of exact packages that some extras need, with those of a list where it has them."""
    command = [
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version=3.10",
        "--no-annotate",
        "--no-header",
    ]
    command += [f"--overrides={REQUIREMENTS / 'overrides.txt'}", *(f"--extra={extra}" for extra in extras)]
    command += [f"--output-file={lock}", *arguments, str(ROOT / "pyproject.toml"), str(REQUIREMENTS / "instead.txt")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return lock.read_text().splitlines()


def name(line: str) -> str:
    """The package of a line."""
    return re.match(r"[\w.-]+", line)[0]


def main() -> None:
    """Write both lists, for Linux alone: uv also offers lines for other systems."""
    lock, train = REQUIREMENTS / "lock.txt", REQUIREMENTS / "train.txt"
    found = compiled(EXTRAS, lock, *sys.argv[1:])
    lines = [line for line in found if not re.search(r"sys_platform == '(?!linux)", line)]
    lock.write_text("".join(f"{line}\n" for line in lines))
    train.write_text(lock.read_text())
    needed = {name(line) for line in compiled(("train",), train)} | {"ninja"}  # compiles several files at a time
    train.write_text("".join(f"{line}\n" for line in lines if name(line) in needed))


if __name__ == "__main__":
    main()
