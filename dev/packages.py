"""Chooses the packages for this machine: python dev/packages.py LIST [--all]. It prints what pip is to install.

Without ``--all``, without a GPU and without FORCE_CUDA=1, two things are left out of the list:

- triton, a compiler for GPUs, and those CUDA libraries that PyTorch does not load when it is imported.
- PyTorch's CUDA libraries, if PyTorch's own index for CPUs is reachable and has the wheels of this list for this
  platform. torch and torchvision are then named by the addresses of those wheels. Otherwise those of PyPI are taken,
  which bring the CUDA libraries and run without a GPU as well.

The interpreter needs pip and nothing else.
"""

import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urljoin
from urllib.request import urlopen

# A new environment has pip's own copy alone. Where there is another, pip is better not imported: setuptools then leaves
# distutils to Python, and whatever imports setuptools later in the process fails (setuptools' _distutils_hack).
try:
    from packaging.requirements import Requirement
    from packaging.tags import sys_tags
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.tags import sys_tags
    from pip._vendor.packaging.utils import InvalidWheelFilename, parse_wheel_filename

INDEX = "https://download.pytorch.org/whl/cpu"
SECONDS = 5  # that the index may take to answer
OF_TORCH = ("torch", "torchvision")
OF_CUDA = re.compile(r"nvidia-|cuda-|triton$")
NOT_LOADED = re.compile(r"triton$|cuda-(bindings|pathfinder|toolkit)$|nvidia-(cusolver|curand|cuda-cccl|nvtx)$")
DEVICES = ("nvidia[0-9]*", "dxg")  # in /dev; the second is that of Windows' Linux


class _Links(HTMLParser):
    """The addresses of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for key, value in attrs if tag == "a" and key == "href" and value]


def requirements(path: Path) -> list[Requirement]:
    """The lines of a list that are for this interpreter and platform."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    found = [Requirement(line) for line in lines if line]
    return [each for each in found if each.marker is None or each.marker.evaluate()]


def wheel_for_cpus(package: Requirement, index: str = INDEX) -> str | None:
    """The address of a package's wheel for CPUs, or None if the index is out of reach or has none for this platform.

    Args:
        package: with the exact version.
        index: the folder of all packages.
    """
    page = f"{index}/{package.name}/"
    try:
        with urlopen(page, timeout=SECONDS) as answer:
            links = _Links()
            links.feed(answer.read().decode())
    except (URLError, OSError, ValueError):
        return None
    version, tags = str(package.specifier).removeprefix("=="), set(sys_tags())
    for link in links.found:
        address = urljoin(page, link)
        file = address.partition("#")[0].rpartition("/")[2].replace("%2B", "+")
        try:
            _, found, _, of_wheel = parse_wheel_filename(file)
        except InvalidWheelFilename:
            continue
        if found.public == version and found.local in ("cpu", None) and tags & of_wheel:
            return address
    return None


def chosen(path: Path, whole: bool, index: str = INDEX) -> list[str]:
    """What pip is to install, one requirement a line.

    Args:
        path: the list.
        whole: whether nothing is left out.
        index: see :func:`wheel_for_cpus`.
    """
    found = requirements(path)
    has_gpu = any(True for pattern in DEVICES for _ in Path("/dev").glob(pattern))
    if whole or has_gpu or os.environ.get("FORCE_CUDA", "0") not in ("", "0"):
        return [f"{each.name}{each.specifier}" for each in found]
    found = [each for each in found if not NOT_LOADED.match(each.name)]
    wheels = {each.name: wheel_for_cpus(each, index) for each in found if each.name in OF_TORCH}
    if not all(wheels.values()):
        return [f"{each.name}{each.specifier}" for each in found]
    rest = [
        f"{each.name}{each.specifier}" for each in found if each.name not in wheels and not OF_CUDA.match(each.name)
    ]
    return [*(f"{name} @ {address}" for name, address in wheels.items()), *rest]


if __name__ == "__main__":
    print(*chosen(Path(sys.argv[1]), "--all" in sys.argv[2:]), sep="\n")
