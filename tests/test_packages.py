"""Tests of what make installs: the lists of exact packages, and what is left out of them for this machine."""

import http.server
import re
import subprocess
import sys
import threading
from functools import partial
from importlib import metadata
from pathlib import Path

import packages
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ssm_core.errors import EXTRAS, MissingPackageError, how_to_install

ROOT = Path(__file__).parents[1]
LISTS = {name: ROOT / "requirements" / f"{name}.txt" for name in ("lock", "train")}
UNUSED = {"imagecorruptions-imaug", "numba", "llvmlite", "csbdeep", "opencv-python"}
NOWHERE = "http://127.0.0.1:9"  # a port on which nothing listens


def names(lines):
    return {line.partition(" ")[0].partition("==")[0] for line in lines}


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(packages, "DEVICES", ("there-is-none",))
    monkeypatch.delenv("FORCE_CUDA", raising=False)


@pytest.fixture
def index(tmp_path):
    """Serve an index with wheels of torch and torchvision, in the form of PyTorch's own, and return its address."""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for package in packages.requirements(LISTS["train"]):
        if package.name in packages.OF_TORCH:
            version = str(package.specifier).removeprefix("==")
            others = [f"{python}-{python}-win_amd64", "cp39-cp39-linux_x86_64", f"{python}-{python}-linux_x86_64"]
            files = [f"{package.name}-{version}%2Bcpu-{tags}.whl" for tags in others]
            files.insert(0, f"{package.name}-1.0.0%2Bcpu-{python}-{python}-linux_x86_64.whl")
            (tmp_path / package.name).mkdir()
            links = "".join(f'<a href="/whl/{file}#sha256=1">{file}</a>' for file in files)
            (tmp_path / package.name / "index.html").write_text(links)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_short_list_has_lines_of_the_long_one():
    short, long = (path.read_text().splitlines() for path in (LISTS["train"], LISTS["lock"]))
    assert len(short) < len(long) / 1.5
    assert [line for line in long if line in set(short)] == short


@pytest.mark.parametrize("name", LISTS)
def test_nothing_that_is_not_imported_is_in_the_lists(name):
    assert not UNUSED & names(LISTS[name].read_text().splitlines())


def test_without_a_gpu_and_an_index_torch_is_that_of_the_list(no_gpu):
    found = packages.chosen(LISTS["train"], False, NOWHERE)
    left_out = names(packages.chosen(LISTS["train"], True)) - names(found)
    assert "triton" in left_out
    assert all(packages.OF_CUDA.match(name) for name in left_out)
    assert any(line.startswith("torch==") for line in found)
    assert any(line.startswith("nvidia-") for line in found)


def test_without_a_gpu_torch_is_that_of_its_index_for_cpus(no_gpu, index):
    found = packages.chosen(LISTS["train"], False, index)
    assert not [name for name in names(found) if packages.OF_CUDA.match(name)]
    of_torch = {line.partition(" @ ")[0]: line.partition(" @ ")[2] for line in found if " @ " in line}
    assert set(of_torch) == set(packages.OF_TORCH)
    assert all("linux_x86_64" in address and "-1.0.0" not in address for address in of_torch.values())
    assert all(address.startswith(f"{index}/whl/") for address in of_torch.values())


def test_an_index_without_the_version_is_passed_over(no_gpu, index, tmp_path):
    (tmp_path / "torch" / "index.html").write_text('<a href="/whl/torch-1.0.0%2Bcpu-py3-none-any.whl">torch</a>')
    assert any(line.startswith("torch==") for line in packages.chosen(LISTS["train"], False, index))


def test_nothing_is_left_out_for_a_gpu(monkeypatch, no_gpu, index):
    whole = packages.chosen(LISTS["train"], True)
    monkeypatch.setenv("FORCE_CUDA", "1")
    assert packages.chosen(LISTS["train"], False, index) == whole


def made(folder, *arguments):
    """What make would do, with an environment in a folder."""
    command = ["make", "--dry-run", f"VENV={folder}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_what_make_installs_and_compiles(tmp_path):
    first = made(tmp_path, "quickstart").stdout
    assert "requirements/train.txt" in first
    assert ("NO_CUDA=1 dev/build.sh" in first) == (not any(Path("/dev").glob("nvidia[0-9]*")))
    assert "NO_CUDA=1" not in made(tmp_path, "quickstart", "FORCE_CUDA=1").stdout
    whole = made(tmp_path, "test").stdout
    assert "requirements/lock.txt --all" in whole
    assert "NO_CUDA=1" not in whole
    assert "EXTRAS is all or train, not det" in made(tmp_path, "setup", "EXTRAS=det").stderr


def test_an_environment_with_everything_stays(tmp_path):
    for name in ("installed", "built"):
        (tmp_path / f".{name}-all").touch()
    assert "dev/" not in made(tmp_path, "quickstart").stdout


def brought(distribution, extra=""):
    """Every distribution that an installation of one with an extra brings along, by pip's own data."""
    found, waiting = set(), [(distribution, extra)]
    while waiting:
        name, own = waiting.pop()
        if (name, own) in found:
            continue
        found.add((name, own))
        try:
            wanted = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:  # it is for another machine
            continue
        for each in wanted:
            if each.marker is None or each.marker.evaluate({"extra": own}):
                waiting += [(canonicalize_name(each.name), more) for more in ("", *each.extras)]
    return {name for name, _ in found}


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_package_is_in_the_extra_that_is_named(module):
    """The wheel with this extra brings it, and so does make setup."""
    words = str(MissingPackageError(module, "this tool"))
    (extra,) = re.findall(r'`make setup` has it, or run `pip install "dist/FILE\.whl\[(\w+)\]"`', words)
    (distribution,) = map(canonicalize_name, metadata.packages_distributions()[module])
    assert distribution in brought("tree-ssm-train", extra)
    assert distribution in map(canonicalize_name, names(LISTS["lock"].read_text().splitlines()))


def test_packages_of_every_installation_have_no_extra():
    assert 'pip install "dist/FILE.whl"`' in how_to_install()


def test_no_message_names_an_index():
    """pip finds no project of this name."""
    sources = [
        path
        for package in ("ssm_core", "quadtree_ssm", "tree_ssm", "ssm_train")
        for path in ROOT.glob(f"{package}/**/*.py")
    ]
    texts = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *sources, *ROOT.glob("tools/**/*.py")]
    assert len(texts) > 300
    assert [path for path in texts if re.search(r"pip install\W+tree[-_]ssm", path.read_text())] == []
