"""Tests of tools/explore.py: its errors, what it serves and to whom, and its end. tests/apis has those of the page."""

import os
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request

import pytest
import runs
from command_line import error_of, load_tool, run
from small_explorer import explorer, served_page, write_checkpoints

from ssm_core.errors import ConfigError
from ssm_train.apis.explore import UPLOADS, Address, served


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return write_checkpoints(tmp_path_factory.mktemp("models"))


def test_errors(checkpoints, tmp_path, capsys, monkeypatch):
    assert "there is no such file" in error_of(capsys, "explore", tmp_path / "none.pth")
    assert "is a ResNet: the page is for MambaTreeV and QuadMamba" in error_of(capsys, "explore", "resnet10t")
    for option in (("--side", "9"), ("--port", "0"), ("--max-upload", "much")):
        with pytest.raises(SystemExit):
            load_tool("explore").parse_arguments(list(option))
        assert option[1] in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    before = os.environ.get(UPLOADS)
    assert 'run `pip install "dist/FILE.whl[explore]"`' in error_of(capsys, "explore", *checkpoints)
    assert os.environ.get(UPLOADS) == before


@pytest.fixture(scope="module")
def address(checkpoints):
    with served_page(checkpoints) as url:
        yield url


def test_served_to_this_machine_alone(address, checkpoints):
    assert address.startswith("http://127.0.0.1:")
    port = int(address.rstrip("/").rpartition(":")[2])
    line = f"cannot listen on 127.0.0.1:{port}: "
    with pytest.raises(ConfigError, match=line), served(explorer(checkpoints), Address(port=port)):
        pass
    assert "Tree-SSM explorer" in urllib.request.urlopen(address, timeout=60).read().decode()


@pytest.mark.parametrize("path", ["", "config", "gradio_api/upload", "gradio_api/file=/etc/hostname"])
def test_a_page_under_another_name_gets_nothing(address, path):
    """A stranger's page could let its own name lead to this machine, and read the answers as its own."""
    method = "POST" if path.endswith("upload") else "GET"
    request = urllib.request.Request(address + path, headers={"Host": "evil.example:7860"}, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert (refused.value.code, refused.value.read()) == (400, b"this page has another name")


@pytest.mark.parametrize("path", ["gradio_api/file=/etc/hostname", "gradio_api/file=../../../etc/hostname"])
def test_files_of_the_machine_are_not_served(address, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(address + path, timeout=60)
    assert refused.value.code in (403, 404)


def test_a_port_in_use_fails_at_once(address, checkpoints, capsys):
    port = address.rstrip("/").rpartition(":")[2]
    start = time.monotonic()
    line = error_of(capsys, "explore", *checkpoints, "--port", port)
    assert line.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert time.monotonic() - start < 30


def serve(folder, sources):
    """Run the tool with a folder for temporary files. A shell may have made this process ignore SIGINT."""
    tempfile.tempdir = str(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run("explore", *sources))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_the_tool_serves_until_a_signal(number, status, checkpoints, tmp_path):
    """The tool removes its folder of uploads when it ends."""
    log = tmp_path / "log"
    tool = runs.start(serve, log, tmp_path, checkpoints)
    try:
        while not log.exists() or "open " not in log.read_text() or not log.read_text().endswith("\n"):
            tool.join(0.1)
            assert tool.is_alive(), (tmp_path / "log.err").read_text()
        *titles, last = log.read_text().splitlines()
        assert titles == [opened.title for opened in explorer(checkpoints).models]
        words = last.split()
        assert [*words[:1], *words[2:]] == ["open", "in", "a", "browser;", "Ctrl-C", "ends", "it"]
        assert "Tree-SSM explorer" in urllib.request.urlopen(words[1], timeout=60).read().decode()
        assert list(tmp_path.glob("tree-ssm-explore-*"))
        os.kill(tool.pid, number)
        runs.finish(tool, log, status)
    finally:
        tool.kill()
    assert not list(tmp_path.glob("tree-ssm-explore-*"))
