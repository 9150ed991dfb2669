"""What the sources of the compiled library include (docs/design.md)."""

import re
from pathlib import Path

import pytest

CUDA = Path(__file__).parents[1] / "csrc" / "cuda"
INCLUDE = re.compile(r'^\s*#\s*include\s+(?:<([^>]+)>|"([^"]+)")', re.MULTILINE)


def system_headers(path, seen):
    """Of a file and all of ours that it includes."""
    if path in seen:
        return
    seen.add(path)
    for system, own in INCLUDE.findall(path.read_text()):
        if system:
            yield system
        else:
            yield from system_headers((path.parent / own).resolve(), seen)


@pytest.mark.parametrize("path", sorted(CUDA.glob("*.cu")), ids=lambda path: path.name)
def test_what_nvcc_compiles_has_none_of_torchs_headers(path):
    headers = set(system_headers(path, set()))
    assert not {header for header in headers if header.startswith(("ATen/", "torch/"))}
    assert headers


def test_no_two_sources_of_a_folder_make_the_same_object():
    names = [path.stem for kind in ("*.cu", "*.cpp") for path in CUDA.glob(kind)]
    assert len(names) == len(set(names))
