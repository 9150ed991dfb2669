"""Settings of all tests: one thread per process, GPU tests only on a machine with a GPU, and shared fixtures."""

import functools
import gc
import importlib.util
import logging
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

# Processes of one thread each (see Makefile) are faster than one process of several threads, because the threads of
# small operators mostly wait for each other. There are three for two cores, because many tests wait for processes that
# they start. Those take the setting from the environment.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# A shell starts background jobs with SIGINT ignored. Their processes inherit that, and some tests stop theirs by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# By the time that they take, the longest first.
LONGEST = (
    "test_slurm.py", "test_language_study.py", "test_export.py", "test_lines.py", "test_empty_success.py",
    "test_bad_places.py", "test_benchmarks.py", "test_ablate_processes.py", "test_ablate.py", "test_bad_input.py",
)  # fmt: skip


def pytest_collection_modifyitems(config, items):
    # The longest modules run first. Otherwise one process could still run one when the others have nothing left to do.
    # See the Makefile.
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    rebuild = "rebuild" in config.option.markexpr
    left_out = [item for item in items if not _can_run(item, rebuild)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _can_run(item, rebuild)]


def _can_run(item, rebuild):
    """Say whether the GPU and the packages that a test needs are there, and whether it may build the library."""
    if item.get_closest_marker("rebuild") and not rebuild:
        return False
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        return False
    return all(importlib.util.find_spec(marker.args[0]) for marker in item.iter_markers("needs"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """Forget the default scope of a run in the process of the tests. Other tests would build their models in it."""
    before = _default_scopes().copy()
    result = yield
    scopes = _default_scopes()
    scopes.clear()
    scopes.update(before)
    return result


def pytest_runtest_logreport(report):
    # Names are told at once. Otherwise nobody would know them if the tests were cut off.
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nfailed: {report.nodeid} ({report.when})", flush=True)


def pytest_collection_finish(session):
    # Imported objects are never garbage. Without this, Python would search them for a second every few tests.
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _metafiles_are_read_once():
    """Cache the metafiles. For each base config of mmdet or mmseg, mmengine reads all of them, which takes a second."""
    if utils := sys.modules.get("mmengine.config.utils"):
        utils.load = functools.cache(utils.load)


def _default_scopes():
    registry = sys.modules.get("mmengine.registry")
    return registry.DefaultScope._instance_dict if registry else {}


@pytest.fixture(scope="session")
def own_disks():
    """Skip tests where processes cannot mount disks of their own: that needs root, or user namespaces."""
    import bad_places
    import runs

    process = runs.context().Process(target=bad_places.try_own_mounts)
    process.start()
    process.join(120)
    assert process.exitcode in (0, bad_places.NOT_ALLOWED)
    if process.exitcode:
        pytest.skip("this machine lets no process mount a disk of its own")


@pytest.fixture(scope="session")
def _quick_python(tmp_path_factory):
    import quick_python
    import runs

    folder = tmp_path_factory.mktemp("quick")
    path, address = quick_python.write(folder)
    server = runs.start(quick_python.serve, folder / "log", path, address)
    while not os.path.exists(address):
        assert server.is_alive(), (folder / "log.err").read_text()
        time.sleep(0.05)
    yield str(path)
    server.kill()
    server.join()


@pytest.fixture
def quick_python(_quick_python, monkeypatch):
    """Let tools start the programs that they need in an interpreter which has imported what these import."""
    monkeypatch.setattr(sys, "executable", _quick_python)
    return _quick_python


@pytest.fixture
def lines(request):
    """Return the list that gets the lines of mmengine's current logger."""
    from mmengine.logging import MMLogger

    class Lines(logging.Handler):
        def emit(self, record):
            logged.append(record.getMessage())

    logged, handler = [], Lines()
    logger = MMLogger.get_instance(request.node.nodeid)  # the latest logger is the current one
    logger.setLevel("INFO")
    logger.addHandler(handler)
    yield logged
    logger.removeHandler(handler)
    MMLogger._instance_dict.pop(request.node.nodeid)


@pytest.fixture(scope="session")
def nuclei_root(tmp_path_factory):
    """Return a data folder with the real nuclei. The package stardist holds them, or pip downloads it."""
    from ssm_train.data.prepare.nuclei import prepare_nuclei

    root = tmp_path_factory.mktemp("data")
    prepare_nuclei(root, None)
    return root


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory):
    """Write ``pretrained/`` (a network of random weights and its tokenizer), ``text.txt`` and ``rows.json``."""
    from small_language import write_folder

    return write_folder(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def browser():
    """Start the system's Chromium, or the one that Playwright downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        found = next(filter(None, map(shutil.which, BROWSERS)), own if Path(own).exists() else None)
        if found is None:
            pytest.skip("there is no Chromium: install one, or run `playwright install chromium`")
        # The sandbox needs rights that containers withhold. It is not needed because all pages are our own.
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()
