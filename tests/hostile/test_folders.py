"""Tests of folders from anywhere: nothing in them runs, and memory and time are in proportion to their size."""

import contextlib
import json
import random
import resource
import time

import pytest
from hostile import folders, reading

from ssm_core import hub
from ssm_core.errors import CheckpointError, UserError

CASES = [
    (kind, attack)
    for kind, attacks in (("hub", folders.HUB), ("language", folders.LANGUAGE), ("tokenizer", folders.TOKENIZER))
    for attack in attacks
    if attack is not folders.swollen_weights  # takes long to write, and is read as in test_archives.py
]
READ = {"hub": reading.hub, "language": reading.network, "tokenizer": reading.tokenizer}


@pytest.mark.needs("transformers")
@pytest.mark.parametrize(("kind", "attack"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_hostile_folders_are_refused_at_once(kind, attack, tmp_path):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for seed in range(2):
        folder, mark = tmp_path / str(seed), tmp_path / "mark"
        folders.write(attack, kind, folder, random.Random(seed), mark)
        harmless = contextlib.suppress(UserError) if attack in folders.MAY_BE_READ else pytest.raises(UserError)
        with harmless:
            READ[kind](str(folder))
        assert not mark.exists()
    assert time.monotonic() - start < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000, "kilobytes"


@pytest.mark.needs("transformers")
def test_patterns_of_used_tokenizers_are_read(tmp_path):
    """A text is split as the same tokenizer of transformers splits it."""
    from transformers import AutoTokenizer

    from tree_ssm.language import load_tokenizer
    from tree_ssm.language.tokenizer_file import _PATTERNS

    folders.write(lambda *_: None, "tokenizer", tmp_path / "x", None, None)
    path = tmp_path / "x" / "tokenizer.json"
    content = json.loads(path.read_text())
    text = "It's 12345 o'clock,  and\n\n the rest of it: É…\t"
    for pattern in sorted(_PATTERNS):
        parts = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ]
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
        path.write_text(json.dumps(content))
        mine, theirs = load_tokenizer(str(tmp_path / "x")), AutoTokenizer.from_pretrained(tmp_path / "x")
        assert mine.encode(text) == theirs.encode(text)
        assert mine.decode(mine.encode(text)) == text
        names = ("eos_token", "pad_token", "bos_token")
        assert [getattr(mine, name) for name in names] == [getattr(theirs, name) for name in names]


def test_the_hub_downloads_no_more_than_the_limit(monkeypatch, tmp_path):
    """The sizes are those that the Hub announces before anything is downloaded."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            files = [{"rfilename": "model.safetensors", "size": 3 * 10**9}, {"rfilename": "x.bin", "size": 10**12}]
            answer = json.dumps({"id": "a/b", "sha": "0" * 40, "siblings": files}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SSM_DOWNLOAD_LIMIT", "2")
    api = hub.HfApi(endpoint=f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    try:
        with pytest.raises(CheckpointError, match=r"^a/b is larger than 2 GB: set SSM_DOWNLOAD_LIMIT to"):
            hub.local_folder("a/b", hub.PATTERNS)
    finally:
        server.shutdown()
        server.server_close()
    assert len(asked) == 1
