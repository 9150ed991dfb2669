"""Tests of checkpoints that are given by address, from a server on this machine."""

import hashlib
import re
import threading
import time
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import bad_places
import pytest
import torch
from hostile import checkpoints as hostile

from ssm_core import addresses, weights
from ssm_core.conversion import ConversionError
from ssm_core.errors import CheckpointError, ConfigError
from ssm_core.writing import WriteError
from ssm_train.apis.convert import convert_file
from ssm_train.apis.publish import publish_checkpoint

STATE = {"w": torch.arange(1000.0)}

# What a server can send before the first byte of a file, by address: how it begins, and what follows again and again.
WITHOUT_END = {
    "/headers": (b"HTTP/1.1 200 OK\r\nServer: ", b"x"),
    "/preliminary": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "/size_of_a_part": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "/way": (b"HTTP/1.1 302 Found\r\nLocation: /x.pth\r\n\r\n", bytes(1 << 16)),
}


@contextmanager
def serving(folder, announce=True):
    """Serve a folder, and the address ``/endless``, whose size is not known before."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self):
            asked.append(self.path)
            if self.path == "/to_file":
                self.send_response(302)
                self.send_header("Location", "file:///etc/hostname")
                self.end_headers()
            elif self.path in WITHOUT_END:
                try:
                    self.wfile.write(WITHOUT_END[self.path][0])
                    while True:
                        self.wfile.write(WITHOUT_END[self.path][1])
                        time.sleep(0.01)
                except OSError:
                    return
            elif self.path == "/endless":
                self.send_response(200)
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(bytes(1 << 16))
                except OSError:
                    return
            else:
                super().do_GET()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    folder = tmp_path / "served"
    folder.mkdir()
    torch.save(STATE, folder / "x.pth")
    with serving(folder) as (root, asked):
        yield folder, root, asked
    torch.hub.set_dir(before)


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "hub" / "ssm_checkpoints").glob("*") if path.suffix != ".lock")


def test_a_file_is_downloaded_once(server, tmp_path):
    _folder, root, asked = server
    for _ in range(2):
        assert torch.equal(weights.read_file(f"{root}/x.pth")["w"], STATE["w"])
    assert asked == ["/x.pth"]
    assert len(left(tmp_path)) == 1


def test_a_copy_that_is_not_what_its_hash_says_is_fetched_again(server, tmp_path):
    folder, root, asked = server
    address = f"{root}/x.pth#sha256={hashlib.sha256((folder / 'x.pth').read_bytes()).hexdigest()}"
    torch.save({"w": torch.zeros(1)}, addresses.download(address))
    assert torch.equal(weights.read_file(address)["w"], STATE["w"])
    assert asked == ["/x.pth"] * 2


def test_hashes(server, tmp_path):
    folder, root, _asked = server
    digits = hashlib.sha256((folder / "x.pth").read_bytes()).hexdigest()
    for name in (f"net-{digits[:8]}.pth", "net-00000000.pth", "net-20240101.pth"):
        (folder / name).write_bytes((folder / "x.pth").read_bytes())
    for good in (f"x.pth#sha256={digits}", f"x.pth#sha256={digits[:12]}", f"net-{digits[:8]}.pth", "net-20240101.pth"):
        assert "w" in weights.read_file(f"{root}/{good}")
    number = len(left(tmp_path))
    for bad in ("x.pth#sha256=0123456789", "net-00000000.pth"):
        with pytest.raises(CheckpointError, match=rf"another file than its hash says: SHA-256 is {digits}"):
            weights.read_file(f"{root}/{bad}")
    with pytest.raises(CheckpointError, match="ends in no hash"):
        weights.read_file(f"{root}/x.pth#md5=3")
    assert len(left(tmp_path)) == number, "a file that was refused is not kept"


@pytest.mark.parametrize("name", ["x.pth", "endless"])
def test_the_limit_of_size(name, server, tmp_path, monkeypatch):
    monkeypatch.setenv(addresses.LIMIT_SWITCH, "0.000003")
    with pytest.raises(CheckpointError, match=r"is larger than 3e-06 GB: set SSM_DOWNLOAD_LIMIT"):
        weights.read_file(f"{server[1]}/{name}")
    assert left(tmp_path) == []
    monkeypatch.setenv(addresses.LIMIT_SWITCH, "much")
    with pytest.raises(ConfigError, match="not 'much'"):
        weights.read_file(f"{server[1]}/{name}")


def test_a_server_that_sends_too_slowly(server, tmp_path, monkeypatch):
    monkeypatch.setattr(addresses, "_GRACE", -1)
    monkeypatch.setattr(addresses, "_SLOWEST", 1e12)
    with pytest.raises(CheckpointError, match="it comes at less than"):
        weights.read_file(f"{server[1]}/endless")
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", [name for name in WITHOUT_END if name != "/way"])
def test_a_server_that_never_begins(name, server, tmp_path, monkeypatch):
    monkeypatch.setattr(addresses, "_GRACE", 1)
    with pytest.raises(CheckpointError, match="it comes at less than"):
        weights.read_file(f"{server[1]}{name}")
    assert left(tmp_path) == []


def test_an_endless_page_on_the_way_is_not_read(server):
    assert torch.equal(weights.read_file(f"{server[1]}/way")["w"], STATE["w"])


def test_addresses_that_lead_nowhere(server):
    root = server[1]
    for address, words in (
        (f"{root}/none.pth", "404"),
        (f"{root}/to_file", "cannot load the checkpoint"),
        ("http://127.0.0.1:1/x.pth", "refused"),
        ("http://[/x.pth", "http"),
        ("file:///etc/hostname", "checkpoints are read from files, http:// and https://"),
        ("s3://bucket/x.pth", "checkpoints are read from files"),
        ("pavi://x", "checkpoints are read from files"),
    ):
        with pytest.raises(CheckpointError, match=words):
            weights.read_file(address)


def test_programs_at_addresses_do_not_run(server, tmp_path):
    folder, root, _asked = server
    for attack in (hostile.program, hostile.legacy_program):
        hostile.write(attack, folder / f"{attack.__name__}.pth", 0, tmp_path / "mark")
        with pytest.raises(CheckpointError, match="pickled Python objects"):
            weights.read_file(f"{root}/{attack.__name__}.pth")
    assert not (tmp_path / "mark").exists()


def test_what_goes_through_mmengine_is_read_safely(server, tmp_path, monkeypatch):
    from mmengine.model import PretrainedInit
    from mmengine.runner import load_checkpoint

    import ssm_train.runtime.config  # noqa: F401

    folder, root, _asked = server
    mark, strange = tmp_path / "mark", tmp_path / "a:"
    strange.mkdir()
    hostile.write(hostile.program, folder / "p.pth", 0, mark)
    hostile.write(hostile.program, strange / "p.pth", 0, mark)
    monkeypatch.chdir(tmp_path)
    module = torch.nn.Linear(2, 2)
    for place in (
        f"{root}/p.pth",
        str(folder / "p.pth"),
        "a://p.pth",
        "s3://p.pth",
        "openmmlab://p",
        "torchvision://p",
    ):
        for load in (lambda p: load_checkpoint(module, p), lambda p: PretrainedInit(checkpoint=p)(module)):
            with pytest.raises(CheckpointError):
                load(place)
    assert not mark.exists()


def test_publishing_and_converting_take_addresses(server, tmp_path, monkeypatch):
    folder, root, _asked = server
    torch.save({"state_dict": STATE}, folder / "net.pth")
    monkeypatch.chdir(tmp_path)
    published = publish_checkpoint(f"{root}/net.pth")
    assert re.fullmatch(r"net-[0-9a-f]{8}\.pth", str(published.path))
    assert torch.equal(weights.read_file(published.path)["state_dict"]["w"], STATE["w"])
    with pytest.raises(ConversionError, match=r"this is no released checkpoint of QuadMamba or MambaTree"):
        convert_file(f"{root}/net.pth", tmp_path / "out.pth")


def test_a_disk_without_room(server):
    folder, root, _ = server
    size = (folder / "x.pth").stat().st_size
    with bad_places.file_limit(1000), pytest.raises(WriteError, match=f"too large.*: needed {size / 1000:.3g} kB$"):
        addresses.download(f"{root}/x.pth")
    assert [path.suffix for path in (folder.parent / "hub").rglob("*.*")] == [".lock"]


def test_a_file_in_place_of_the_folder(server):
    folder, root, _ = server
    (folder.parent / "hub").touch()
    with pytest.raises(WriteError, match="hub is a file and no folder"):
        addresses.download(f"{root}/x.pth")
